"""A version of a fold over the history, beside the one in force.

Both are folded anew from the log, with its recorded ticks and its skips: outputs in the log do not
say which record they answer, since that would make them depend on offsets. Nothing is written, and
the group is not touched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from processors.versions import Versions, versions_of
from schemas.codec import Codec
from schemas.errors import HeadwaterError
from schemas.events import Tick
from streams.folding.candidate import MOST_RAISED
from streams.folding.course import Turn, course, turns
from streams.folding.lineage import Segment, lineage
from streams.folding.restore import changelog, skips_in
from streams.folding.snapshots import Sealer, Skip
from streams.folding.ticks import ticks_of
from streams.partitions.log import Log
from streams.versions.comparing import Comparison, Given
from streams.versions.decisions import Decisions
from streams.versions.recorded import Held, Place, held, recorded
from streams.versions.side import Raised, Side, Spoilt


class NotComparable(HeadwaterError):
    """There are no two versions to compare, or one of them cannot be run over the history."""


class Compared(NamedTuple):
    """What came of it. `ranges` are the offsets of which the outputs were compared, by partition."""

    fold: str
    old: int
    new: int
    comparison: Comparison
    raised: list[Raised]
    ranges: dict[Place, tuple[int, int]]
    seconds: float

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.comparison.differences and not self.raised


class Differ:
    """Compares two versions of one fold, partition by partition.

    `context` and `secret` are those that its snapshots are sealed with; `since` is the broker's time,
    seconds since 1970, from which on outputs are compared. `advance` is told of offsets read.
    """

    def __init__(
        self,
        fold: str,
        candidate: int | None,
        installed: Mapping[str, Versions],
        decisions: Decisions,
        source: Log,
        codec: Codec,
        *,
        secret: bytes,
        context: str,
        since: float | None = None,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._name = fold
        self._versions, self._base, self.old, self.new = chosen(fold, candidate, installed, decisions)
        self._log = source
        self._codec = codec
        self._secret = secret
        self._context = context
        self._since = since
        self._advance = advance

    async def run(self, places: Sequence[Place]) -> Compared:
        """Compare; each partition up to where the group stands. Raises NotComparable, and what the log raises."""
        started = time.monotonic()
        total, raised = Comparison(self._codec), list[Raised]()
        ranges: dict[Place, tuple[int, int]] = {}
        for place in places:
            comparison, own, ranges[place] = await self._partition(place)
            total.merge(comparison)
            raised += own
        seconds = time.monotonic() - started
        return Compared(self._name, self.old, self.new, total, raised, ranges, seconds)

    async def _partition(self, place: Place) -> tuple[Comparison, list[Raised], tuple[int, int]]:
        topic, partition = place
        first, _ = await self._log.bounds(topic, partition)
        position = await self._log.committed(topic, partition)
        position = first if position is None else position
        facts, _ = await recorded(self._log, self._codec, topic, partition)
        of = held(facts, position).get(self._name, Held([]))
        came, last = lineage(self._versions, self._base, of.switches), of.last
        if came is None or not came.whole:
            raise NotComparable(
                f"fold {self._name}: the state of version {self.old} in {topic}/{partition} was taken over "
                "from a version that is not installed here",
                hint="install it, so that its part of the history can be folded again",
            )
        begin, clock = (last.position, last.clock) if last is not None else (first, float("-inf"))
        skips = await self._skips(came.fold.state is not None, place)
        poison: dict[tuple[int, Skip], Raised] = {}
        of_place = next(t for t in came.fold.topics if t.name == topic)
        while True:
            sides = (
                Side(came.segments[0].fold, self.old, of_place, place, self._codec, skips, poison),
                Side(self._versions[self.new], self.new, of_place, place, self._codec, skips, poison),
            )
            try:
                comparison = await self._compare(sides, came.segments[1:], first, position, (begin, clock))
            except Spoilt as error:
                poison[error.version, error.skip] = error.said
                if len(poison) > MOST_RAISED:
                    raise NotComparable(
                        f"fold {self._name} version {error.version} raises on more than {MOST_RAISED} records of "
                        f"{topic}/{partition}, such as offset {error.said.offset}: {error.said.why}",
                        hint="mend it first",
                    ) from error
            else:
                raised = [*poison.values(), *(letter for side in sides for letter in side.letters)]
                return comparison, raised, (begin, position)

    async def _skips(self, stateful: bool, place: Place) -> list[Skip]:
        """What the fold in force was not given; one without state keeps no such list."""
        if not stateful:
            return []
        topic, partition = place
        sealer = Sealer(self._secret, f"{self._context}/{topic}/{partition}")
        return list(skips_in(await changelog(self._log, topic, partition), sealer))

    async def _compare(
        self,
        sides: tuple[Side, Side],
        migrations: Sequence[Segment],
        first: int,
        position: int,
        begin: tuple[int, float],
    ) -> Comparison:
        comparison, (old, new) = Comparison(self._codec), sides
        topic, partition = old.place
        ticks: Collection[Tick] = ()
        if old.engine.stateful or new.engine.stateful:
            nothing = float("-inf")
            ticks, _ = await ticks_of(self._log, self._codec, topic, partition, 0, nothing, position)
        between, skips = turns(ticks, migrations), old.engine.skips
        since = self._since if self._since is not None else float("-inf")
        async for part in course(self._log, self._codec, topic, partition, between, skips, first, position):
            if not isinstance(part, Turn):
                for record in part:
                    both = old.take(record), new.take(record)
                    if record.offset >= begin[0] and record.timestamp >= since:
                        comparison.add(Given(topic, partition, record.offset), *both)
                self._advance(part[-1].offset + 1 - part[0].offset)
                await asyncio.sleep(0)
            elif isinstance(part.what, Tick):
                both = old.tick(part.what), new.tick(part.what)
                if part[:2] > begin and part.at >= since and (both[0] or both[1]):
                    comparison.add(Given(topic, partition, part.offset, part.at), *both)
            else:
                old.engine.position = part.offset
                await old.engine.migrate(part.what.fold, part.what.term)
        return comparison


def chosen(
    fold: str, candidate: int | None, installed: Mapping[str, Versions], decisions: Decisions
) -> tuple[Versions, int, int, int]:
    """The fold's versions, the one that its log began with, the one in force, and the candidate.

    By default that is the newest that is installed. Raises NoSuchFold or NotComparable.
    """
    versions = versions_of(installed, fold)
    standing, here = decisions.plan.folds.get(fold), ", ".join(map(str, versions))
    if standing is None:
        raise NotComparable(
            f"fold {fold} has never run on this log",
            hint="start the folds (`headwater up`, `headwater folds`)",
        )
    new, old = candidate if candidate is not None else max(versions), standing.version
    if new not in versions:
        raise NotComparable(f"fold {fold}: version {new} is not installed here, there are: {here}")
    if old not in versions:
        raise NotComparable(
            f"fold {fold}: version {old} is in force and not installed here, there are: {here}",
            hint="install it, so that it can be run over the history as well",
        )
    if new == old or (candidate is None and new < old):
        raise NotComparable(
            f"fold {fold}: version {old} is in force, and there is no other to compare it with here",
            hint=f"installed are {here}: name one with --candidate"
            if len(versions) > 1
            else "install the other version beside it: see docs/extending.md",
        )
    return versions, standing.base, old, new
