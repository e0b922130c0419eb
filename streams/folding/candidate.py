"""A version of a fold that is to take over: it folds the partition's log anew beside the one in force.

It does so in slices, and then keeps level with it until the switch. Its state is a function of the log
up to where it stands, like any other; what it yields is dropped. It knows ticks as they were recorded,
for which the version in force had asked.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import structlog

from processors.fold import Fold
from schemas.codec import Record
from schemas.events import Tick
from streams.folding.course import Turn, course, turns
from streams.folding.engine import Engine, Poison
from streams.folding.snapshots import Skip
from streams.folding.ticks import ticks_of
from streams.folding.wakes import LIVE
from streams.partitions.log import Log, Send

log = structlog.get_logger()
_CHUNK = 200
"""Records folded at a time: so many that others do not wait long."""
NEAR = 2_000
"""From so many offsets behind, two full batches, the rest is folded in one go: else it might never be level."""
MOST_RAISED = 10
"""Records on which a version with state may raise: after each its partition is folded from the beginning."""


class Candidate:
    """One version in one partition; `beside` is the engine in force.

    All calls come between batches of `beside`, when what it took is committed.
    """

    def __init__(self, fold: Fold[Any], beside: Engine, source: Log, near: int = NEAR) -> None:
        self.fold = fold
        self.beside = beside
        self.error: str | None = None
        """Why it gave up."""
        self._log = source
        self._first = 0
        """Where the log starts. What was removed before it was folded shall not be a gap in what was."""
        self._near = near
        self._poison: dict[Skip, Exception] = {}
        self._course: AsyncGenerator[Sequence[Record] | Turn, None] | None = None
        self._begin()

    def _begin(self) -> None:
        beside = self.beside
        self.engine = Engine(beside.topic, beside.partition, [self.fold], beside.codec, beside.group)
        self.engine.position = self._first
        self._until = self._first, -math.inf
        self.engine.skips.update(self._poison)
        self._tick_offset = 0
        self._stale = True

    @property
    def letters(self) -> list[tuple[Skip, Send]]:
        """Dead letters of what this version raised on, to be written when it takes over."""
        return [(skip, send) for skip, send in self.engine.letters if skip in self._poison]

    @property
    def level(self) -> bool:
        """Whether it stands where the version in force does: at its record, and at its time.

        Its own time may be later: it knows all recorded ticks, and folds without state were never told.
        """
        position, clock = _stand(self.engine)
        other, others = _stand(self.beside)
        return self.error is None and position == other and clock >= others

    def fits(self, engine: Engine) -> bool:
        """Whether it may go on beside another engine: it has folded nothing that this one has not, or skips."""
        missed = engine.skips.keys() - self.engine.skips.keys()
        position = self.engine.position
        return position <= engine.position and not any(skip.offset < position for skip in missed)

    async def advance(self, budget_s: float, clock: Callable[[], float] = time.monotonic) -> bool:
        """Fold on towards the version in force, for about `budget_s`; whether it is level.

        Raises what the log raises.
        """
        end, raised = clock() + budget_s, len(self._poison)
        while not self.level and self.error is None:
            if self._course is None or self._stale:
                await self._open()
            assert self._course is not None
            part = await anext(self._course, None)
            if part is None:
                await self._arrive()
            else:
                self._give(part)
            near = len(self._poison) == raised and self.beside.position - self.engine.position <= self._near
            if clock() >= end and not near:
                break
            await asyncio.sleep(0)
        if self.level or self.error is not None:
            await self.close()
        return self.level

    async def _arrive(self) -> None:
        """All that was recorded up to there is folded; that a tick of it is in the log no more changes nothing."""
        await self.close()
        self.engine.position, clock = self._until
        if clock > self.engine.clocks.get(LIVE, -math.inf):
            self.engine.clocks[LIVE] = clock

    async def close(self) -> None:
        """Read no further."""
        course_, self._course = self._course, None
        if course_ is not None:
            await course_.aclose()

    async def _open(self) -> None:
        """What came since, up to where the version in force stands now."""
        await self.close()
        first, _ = await self._log.bounds(self.engine.topic.name, self.engine.partition)
        if self.engine.position < first:
            self._first = first
            self._begin()
        self._learn_skips()
        engine, topic, partition = self.engine, self.engine.topic.name, self.engine.partition
        until, after = self.beside.position, engine.clocks.get(LIVE, -math.inf)
        ticks, self._tick_offset = await ticks_of(
            self._log, engine.codec, topic, partition, self._tick_offset, after, until
        )
        skips, start = engine.skips, engine.position
        self._course = course(
            self._log, engine.codec, topic, partition, turns(ticks, ()), skips, start, until, _CHUNK
        )
        self._until, self._stale = _stand(self.beside), False

    def _give(self, part: Sequence[Record] | Turn) -> None:
        engine = self.engine
        try:
            if not isinstance(part, Turn):
                engine.process(part)
            elif isinstance(part.what, Tick):
                engine.position = part.offset
                engine.tick(part.what.at)
        except Poison as poison:
            self._raised(poison)
        else:
            engine.letters = self.letters

    def _raised(self, poison: Poison) -> None:
        """It begins again without that, or gives up."""
        fold, beside = self.fold, self.beside
        place = {"topic": beside.topic.name, "partition": beside.partition}
        log.warning("fold.candidate_raised", fold=fold.name, version=fold.version, **place, why=str(poison))
        self._poison[poison.skip] = poison.cause
        if len(self._poison) > MOST_RAISED:
            self.error = f"it raises on more than {MOST_RAISED} records, last: {poison}"
        self._begin()

    def _learn_skips(self) -> None:
        skips = self.engine.skips
        skips.update({skip: None for skip in self.beside.skips if skip not in skips})

    def took(self, records: Sequence[Record]) -> None:
        """It was level, and the version in force took these."""
        self._learn_skips()
        self._give(records)

    def ticked(self, tick: Tick) -> None:
        """It was level, and the version in force was given this."""
        self._learn_skips()
        self._give(Turn(tick.after_offset, tick.at, tick))

    def passed(self, position: int) -> None:
        """It was level, and there is no record up to `position`."""
        self.engine.position = position


def _stand(engine: Engine) -> tuple[int, float]:
    """Its position, and the last tick that it was given."""
    return engine.position, engine.clocks.get(LIVE, -math.inf)
