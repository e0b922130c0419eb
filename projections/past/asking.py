"""Answers at a cut: the rows of the keys that are asked for, in tables in memory, for the views' own queries."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from projections.generations import ViewNotReady, lacking
from projections.history import first_of, whole_buckets
from projections.past.cut import BadMoment, Cut, Log, gone, moment_of, tails
from projections.past.state import State, state_at
from projections.past.tail import Tail, counted, remembers, tail_of
from projections.position import Position
from projections.store import Reading, Store
from projections.view import Place, Tables, View
from schemas.errors import DeadlineExceeded, HeadwaterError

T = TypeVar("T")
KEPT_BYTES = 32 * 1024 * 1024
"""What is kept of cuts that were asked for, so that the next page of one reads no records."""
KEPT_CUTS = 500
_CUT_BYTES, _PLACE_BYTES = 2_000, 300
"""What a cut takes however small its tail, and each place in it."""
_FIRST_POLL_S, _LONGEST_POLL_S = 0.01, 0.05
_ATTEMPTS = 3


class _Gone(Exception):
    """The log has lost what a cut needs of a place."""

    def __init__(self, place: Place, starts: Mapping[Place, int]) -> None:
        super().__init__(place)
        self.place, self.starts = place, starts


class _Replaced(HeadwaterError):
    """A view was replaced while its tail was made."""


@dataclass(frozen=True)
class _Known:
    """A tail, for the tables of one generation; `standing` places have nothing after the cut yet, and no tail."""

    made_for: str
    tail: Tail
    standing: Mapping[Place, int]
    places: int

    @property
    def size(self) -> int:
        """About what it takes in bytes, and its cut."""
        return self.tail.size + _CUT_BYTES + _PLACE_BYTES * self.places


_Asked = tuple[str, frozenset[tuple[Place, int]]]
"""(view, cut)."""


class Past:
    """Asks views how they were; one instance serves a process."""

    def __init__(self, store: Store, log: Log) -> None:
        self._store = store
        self._log = log
        self._known: OrderedDict[_Asked, _Known] = OrderedDict()
        self._making = asyncio.Lock()

    async def cut(self, at: str, views: Sequence[str], deadline_s: float) -> dict[Place, int]:
        """The cut that `at` means for these views, once they all have read it.

        A token has to name the topics that the first of them reads; of a topic that it does not name nothing is in
        the cut.

        Raises BadMoment, BadToken, OffsetOutOfRange, DeadlineExceeded, BrokerUnavailable.
        """
        end = time.monotonic() + deadline_s
        moment = moment_of(at)
        asked = [self._store.views[name] for name in views]
        topics = {topic for view in asked for topic in _topics(view)}
        if isinstance(moment, int):
            cut = await self._since(moment, at, sorted(topics), end)
        else:
            cut = {(topic, p): o for topic, some in moment.items() for p, o in some.items() if o}
            await self._log.check(cut)
            cut = {place: offset for place, offset in cut.items() if place[0] in topics}
        for view in asked:
            await self._read(view, cut, deadline_s, end)
        if not isinstance(moment, int):
            await self._refuse_strange(moment, asked[0])
        return cut

    async def ask(
        self, views: Sequence[str], cut: Cut, query: Callable[[State], T], deadline_s: float = 10.0
    ) -> T:
        """What `query` says of the state of the first view at the cut, and of the others beside it.

        After the deadline nothing more is found out of what cannot be answered.

        Raises OffsetOutOfRange, BrokerUnavailable, ViewNotReady.
        """
        view = self._store.views[views[0]]
        if not remembers(view):
            return await run_in_threadpool(self._query, views, cut, None, query)
        key = view.name, frozenset(_of_view(cut, view).items())
        end = time.monotonic() + deadline_s
        for _ in range(_ATTEMPTS):
            try:
                known = self._known.get(key) or await self._make_known(key, view)
            except _Gone as lost:  # asked outside of the lock, which all wait for
                raise await gone(self._log, lost.place, lost.starts, end - time.monotonic()) from None
            self._known.move_to_end(key)
            try:
                return await run_in_threadpool(self._query, views, cut, known, query)
            except _Replaced:
                self._known.pop(key, None)
        raise ViewNotReady(f"view {view.name} is being made anew", hint="ask again in a moment")

    def _query(self, views: Sequence[str], cut: Cut, known: _Known | None, query: Callable[[State], T]) -> T:
        view = self._store.views[views[0]]
        with self._store.read(*views) as live:
            for name in views:
                _require(live, self._store.views[name], cut)
            if known is None:  # its rows are facts with their places
                return query(State(view, live, live, cut))
            stands = all(live.offsets[view.name].get(p) == offset for p, offset in known.standing.items())
            if not stands or _made_for(live.tables[view.name]) != known.made_for:
                raise _Replaced(f"view {view.name} was replaced, or has read on")
            with state_at(view, live, cut, known.tail, known.standing) as state:
                return query(state)

    async def _since(self, ms: int, at: str, topics: Sequence[str], end: float) -> dict[Place, int]:
        ahead_s = ms / 1000 - time.time()
        if ahead_s > max(0.0, end - time.monotonic()):
            raise BadMoment(f"{at} has not come yet", hint="ask for a time that has passed")
        await asyncio.sleep(max(0.0, ahead_s))
        starts = await self._log.starts(topics)
        cut = await self._log.since(topics, ms)
        for place, offset in cut.items():
            # What is the first of all that is left may be of that time, or any later one.
            if 0 < starts[place] >= offset:
                raise await gone(self._log, place, starts, end - time.monotonic())
        return {place: offset for place, offset in cut.items() if offset}

    async def _read(self, view: View, cut: Cut, deadline_s: float, end: float) -> None:
        """Wait until the view has read the cut."""
        wanted = _of_view(cut, view)
        pause_s = _FIRST_POLL_S
        while missing := lacking((await asyncio.to_thread(self._store.live, view.name))[1], wanted):
            if time.monotonic() + pause_s > end:
                raise DeadlineExceeded(
                    f"view {view.name} did not reach that moment within {deadline_s:g} s: it still has to read"
                    f" {', '.join(sorted({topic for topic, _ in missing}))}",
                    hint="ask again, or with a longer deadline_s; `headwater status` shows the lag",
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.3, _LONGEST_POLL_S)

    async def _refuse_strange(self, position: Position, view: View) -> None:
        """Raise BadMoment for a position that says nothing of a topic which the view has records of.

        Events of other topics are what they are without it: there one topic is enough.
        """
        _, offsets = await asyncio.to_thread(self._store.live, view.name)
        there = {topic for (topic, _), offset in offsets.items() if offset}
        strange = there - position.keys()
        if strange and (remembers(view) or strange == there):
            raise BadMoment(
                f"this position says nothing of {', '.join(sorted(strange))}, of which view {view.name} is made",
                hint="send a time, or the `position` of an answer of the same kind",
            )

    async def _make_known(self, key: _Asked, view: View) -> _Known:
        async with self._making:  # one at a time: it takes memory, and the whole process's time
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = await self._make(view, dict(key[1]))
                size = sum(k.size for k in self._known.values())
                while len(self._known) > 1 and (size > KEPT_BYTES or len(self._known) > KEPT_CUTS):
                    size -= self._known.popitem(last=False)[1].size
            return known

    async def _make(self, view: View, cut: Cut) -> _Known:
        offsets = (await asyncio.to_thread(self._store.live, view.name))[1]
        starts = await self._log.starts(_topics(view))
        ranges, standing = tails(cut), {}
        for place, offset in cut.items():
            if first_of(whole_buckets(offset)) < starts[place]:
                # While the view stands there, the bucket that is open tells how it is.
                if offsets.get(place) != offset:
                    raise _Gone(place, starts)
                standing[place] = offset
                ranges.pop(place, None)
        entries = await self._log.read(ranges)

        def make() -> _Known:
            with self._store.read(view.name) as live:
                _require(live, view, cut)
                tables, ours = live.tables[view.name], counted(live, view, entries, ranges)
            return _Known(_made_for(tables), tail_of(view, tables, ours), standing, len(cut))

        return await run_in_threadpool(make)


def _topics(view: View) -> list[str]:
    return sorted(topic.name for topic in view.topics)


def _of_view(cut: Cut, view: View) -> dict[Place, int]:
    topics = set(_topics(view))
    return {place: offset for place, offset in cut.items() if place[0] in topics}


def _made_for(tables: Tables) -> str:
    """Names the generation."""
    return next(table.name for table in tables.values())


def _require(live: Reading, view: View, cut: Cut) -> None:
    """Raise ViewNotReady where the view has not read the cut: it began anew since it was waited for."""
    if lacking(live.offsets[view.name], _of_view(cut, view)):
        raise ViewNotReady(f"view {view.name} is being made anew", hint="ask again in a moment")
