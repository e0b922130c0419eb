"""`at_least`: waiting until a view reflects a position, hop by hop through the folds.

A view that reads the position's topic is waited for directly. Where folds stand between, the group
has to commit past the position first; whatever it wrote then lies below the ends of its output topics
of that moment, which are the next position. Ends are taken with open transactions included: the
markers of a commit reach the offsets topic and the output topics in any order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from processors.catalog import usable as catalog
from processors.fold import Fold
from projections.generations import lacking
from projections.position import BadToken, Position
from projections.store import Store
from projections.view import Place, View
from schemas import topics
from schemas.errors import DeadlineExceeded

FIRST_POLL_S, LONGEST_POLL_S = 0.01, 0.05


class Offsets(Protocol):
    """What Kafka is asked: the group's positions and the topics' ends."""

    async def pending(self, wanted: Mapping[Place, int]) -> Mapping[Place, int]:
        """The places, with the offset wanted, below which the group has not handled everything."""

    async def ends(self, names: Iterable[str]) -> dict[Place, int]:
        """The ends of topics, open transactions included; BadToken where a topic is unknown."""


class Routes:
    """Which topics follow from which, as the table of folds says."""

    def __init__(self, folds: Iterable[Fold[Any]] | None = None) -> None:
        self._next: dict[str, set[str]] = {}
        for fold in catalog() if folds is None else folds:
            written = {topics.topic_of(event).name for event in fold.emits} | {topics.DEAD_LETTERS.name}
            for topic in fold.topics:
                self._next.setdefault(topic.name, set()).update(written)

    def hops(self, topic: str, view: View) -> set[str]:
        """The topics written by folds that read `topic` from which something reaches the view.

        A view that reads `topic` itself has its events at first hand; what it still waits for are
        keyed topics, from which it counts what they say.
        """
        read = {t.name: t for t in view.topics}
        goals = {name for name, t in read.items() if topic not in read or t.kind == "keyed"} - {topic}
        return {following for following in self._next.get(topic, ()) if self._leads(following, goals)}

    def _leads(self, topic: str, goals: set[str]) -> bool:
        seen: set[str] = set()
        todo = [topic]
        while todo:
            name = todo.pop()
            if name in goals:
                return True
            if name not in seen:
                seen.add(name)
                todo += self._next.get(name, ())
        return False


class Freshness:
    """Waits for views; one instance serves a process. Call it as (position, view's name, seconds)."""

    def __init__(self, store: Store, offsets: Offsets, routes: Routes | None = None) -> None:
        self._store = store
        self._offsets = offsets
        self._routes = routes or Routes()

    async def __call__(self, position: Position, view: str, deadline_s: float) -> None:
        """Return when the view reflects the position and what followed from it.

        Raises DeadlineExceeded, which says what was waited for; BadToken where the position names a
        place that does not exist; BrokerUnavailable.
        """
        doing = ["asking Kafka"]
        try:
            async with asyncio.timeout(deadline_s):
                await self._wait(position, self._store.views[view], doing)
        except TimeoutError:
            raise DeadlineExceeded(
                f"view {view} did not reach the position within {deadline_s:g} s; it was {doing[0]}",
                hint="ask again, or with a longer deadline_s; `headwater status` shows the lag",
            ) from None

    async def _wait(self, position: Position, view: View, doing: list[str]) -> None:
        wanted = {(topic, p): offset for topic, some in position.items() for p, offset in some.items()}
        await check(self._offsets, wanted)
        read = {topic.name for topic in view.topics}
        goal = {place: offset for place, offset in wanted.items() if place[0] in read}
        frontier = self._frontier(wanted, view, set())
        visited: set[str] = set()
        while frontier:
            names = sorted({topic for topic, _ in frontier})
            doing[0] = f"waiting for the folds to read {', '.join(names)}"
            await _until(partial(self._is_handled, frontier))
            visited |= set(names)
            ends = await self._offsets.ends({hop for name in names for hop in self._routes.hops(name, view)})
            for place, offset in ends.items():
                if place[0] in read:
                    goal[place] = max(offset, goal.get(place, 0))
            frontier = self._frontier(ends, view, visited)
        doing[0] = f"waiting for view {view.name} to read {', '.join(sorted({t for t, _ in goal}))}"
        await _until(partial(self._is_reached, view.name, goal))

    def _frontier(self, wanted: Mapping[Place, int], view: View, visited: set[str]) -> dict[Place, int]:
        """The places that folds have to handle before the view can know; a cycle is gone through once."""
        return {
            place: offset
            for place, offset in wanted.items()
            if offset and place[0] not in visited and self._routes.hops(place[0], view)
        }

    async def _is_handled(self, wanted: Mapping[Place, int]) -> bool:
        return not await self._offsets.pending(wanted)

    async def _is_reached(self, view: str, goal: Mapping[Place, int]) -> bool:
        _, offsets = await asyncio.to_thread(self._store.live, view)
        return not lacking(offsets, goal)


async def check(offsets: Offsets, wanted: Mapping[Place, int]) -> None:
    """Raise BadToken where a position names a place that is not there, or that ends before its offset."""
    ends = await offsets.ends({topic for topic, _ in wanted})
    for place, offset in wanted.items():
        if place not in ends:
            raise BadToken(f"topic {place[0]} has no partition {place[1]}", hint="send a token of ours")
        if offset > ends[place]:
            raise BadToken(
                f"{place[0]}/{place[1]} ends at {ends[place]}, the token says {offset}",
                hint="it is of another log",
            )


async def _until(is_so: Callable[[], Awaitable[bool]]) -> None:
    pause_s = FIRST_POLL_S
    while not await is_so():
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.3, LONGEST_POLL_S)
