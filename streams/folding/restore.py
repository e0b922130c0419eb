"""Bring an engine to a position of its partition: snapshots, then the log after them, outputs dropped."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import structlog

from schemas import events as e
from schemas import topics
from streams.folding.course import Turn, course, turns
from streams.folding.engine import Engine
from streams.folding.lineage import Lineage, Segment
from streams.folding.rounds import MARKER_KEY, SKIP_PREFIX, state_prefix
from streams.folding.slot import Slot, Spoilt
from streams.folding.snapshots import Marker, Sealer, Skip, Snapshot, SnapshotRefused, load_state
from streams.folding.ticks import ticks_of
from streams.folding.wakes import LIVE
from streams.folding.window import WINDOW
from streams.partitions.log import Log, Step

log = structlog.get_logger()
_BREATHE = 256
"""Snapshots opened between two turns of the event loop: a worker that does not beat is thrown out."""


class Lost(Spoilt):
    """No snapshot fits, and the code that made the state is not installed: it cannot be what it was."""

    def __init__(self, fold: str, why: str) -> None:
        super().__init__(f"fold {fold}: {why}")
        self.fold = fold


class _Saved(NamedTuple):
    """The snapshots of a fold, and where in its lineage they belong."""

    at: int
    snapshots: list[Snapshot]


async def changelog(source: Log, topic: str, partition: int) -> dict[bytes, bytes]:
    """The last value of each key of a partition's changelog."""
    name = topics.changelog(topic)
    first, end = await source.bounds(name, partition)
    saved: dict[bytes, bytes] = {}
    async for batch in source.read(name, partition, first, end):
        for record in batch:
            if record.value is None:
                saved.pop(record.key or b"", None)
            elif record.key is not None:
                saved[record.key] = record.value
    return saved


def skips_in(saved: Mapping[bytes, bytes], sealer: Sealer) -> Iterator[Skip]:
    """What a changelog says is not given to folds again; entries that are not signed by us do not count."""
    for key, value in saved.items():
        if not key.startswith(SKIP_PREFIX):
            continue
        try:
            skip: Skip = sealer.open(Skip, key, value)
        except SnapshotRefused as error:
            log.warning("restore.skip_refused", why=str(error))
        else:
            yield skip


class Restore:
    """One restore of one partition, without the snapshots of the folds named in `refold`.

    The engine's folds are those in force; `lineages` say which made their states, where it was not
    they alone. `run` raises Spoilt where a fold raises on what it once took, or a state cannot be
    loaded or migrated, and Lost where the code for it is missing.
    """

    def __init__(
        self,
        engine: Engine,
        source: Log,
        sealer: Sealer,
        step: Step,
        refold: Collection[str] = (),
        lineages: Mapping[str, Lineage] | None = None,
    ) -> None:
        self.engine = engine
        self.events = 0
        self.tick_offset = 0
        self.saved = -1
        """Position of the marker that was found, -1 where there is none."""
        self._log = source
        self._sealer = sealer
        self._step = step
        self._refolded = refold
        alone = {slot.fold.name: Lineage((Segment(slot.fold),)) for slot in engine.slots}
        self._lineages = alone | dict(lineages or {})
        self._segments: list[Segment] = []
        """Versions that take over on the way."""

    async def run(self, first: int, position: int) -> None:
        """Restore to `position`; `first` is where the log starts."""
        engine = self.engine
        for slot in engine.slots:
            slot.term = self._lineages[slot.fold.name].term
            if slot.fold.state is None:
                slot.floor = position
        if not engine.stateful:
            if engine.deduplicates:
                await self._fold([], first, position, position)
            return
        saved = await changelog(self._log, engine.topic.name, engine.partition)
        marker = self._marker(saved.pop(MARKER_KEY, None))
        engine.skips.update(dict.fromkeys(skips_in(saved, self._sealer)))
        start = await self._adopt(saved, marker, first, position)
        self._step("restore.loaded")
        topic, partition, reflected = engine.topic.name, engine.partition, engine.clocks.get(LIVE, -math.inf)
        ticks, self.tick_offset = await ticks_of(
            self._log, engine.codec, topic, partition, self.tick_offset, reflected, position
        )
        await self._fold(ticks, first, start, position)
        self._step("restore.folded")

    def _marker(self, value: bytes | None) -> Marker | None:
        if value is None:
            return None
        try:
            marker: Marker = self._sealer.open(Marker, MARKER_KEY, value)
        except SnapshotRefused as error:
            self._refold("all", str(error))
            return None
        self.saved = marker.position
        return marker

    async def _adopt(
        self, saved: dict[bytes, bytes], marker: Marker | None, first: int, position: int
    ) -> int:
        """Take each fold's snapshots if all of them are usable; returns from where to fold."""
        complete = True
        here = {slot.fold.name for slot in self.engine.slots}
        for absent in sorted(marker.folds.keys() - here if marker is not None else ()):
            name, partition = self.engine.topic.name, self.engine.partition
            log.warning("restore.fold_absent", topic=name, partition=partition, fold=absent)
        for slot in self.engine.slots:
            if slot.fold.state is None:
                continue
            lineage, at = self._lineages[slot.fold.name], 0
            try:
                found = await self._usable(slot, lineage, saved, marker, position)
            except SnapshotRefused as error:
                if marker is not None:
                    self._refold(slot.fold.name, str(error))
                if not lineage.whole:
                    raise Lost(slot.fold.name, f"{error}, and what came before is not installed") from error
                complete = False
            else:
                at = found.at
                slot.floor = marker.position if marker is not None else 0
                for snapshot in found.snapshots:
                    self.engine.adopt(slot, snapshot)
            self.engine.put(slot, lineage.segments[at].fold, lineage.segments[at].term)
            self._segments += lineage.segments[at + 1 :]
        if marker is None or not complete:
            return first
        self.engine.clocks.update(marker.clocks)
        self.tick_offset = marker.tick_offset
        return max(first, marker.position)

    async def _usable(
        self, slot: Slot, lineage: Lineage, saved: dict[bytes, bytes], marker: Marker | None, position: int
    ) -> _Saved:
        """All snapshots of a fold. Raises SnapshotRefused where one of them does not fit the log."""
        name = slot.fold.name
        if marker is None:
            raise SnapshotRefused("there is no marker")
        if name in self._refolded:
            raise SnapshotRefused("a state could not be loaded")
        if marker.position > position:
            raise SnapshotRefused(f"saved was {marker.position}, the group's position was set to {position}")
        version, term = marker.folds.get(name), marker.terms.get(name, 0)
        for at, segment in enumerate(lineage.segments):
            if (segment.fold.version, segment.term) == (version, term):
                return _Saved(at, await self._snapshots(segment, saved, marker, position))
        raise SnapshotRefused(f"it is version {slot.fold.version}, saved was {version}")

    async def _snapshots(
        self, segment: Segment, saved: dict[bytes, bytes], marker: Marker, position: int
    ) -> list[Snapshot]:
        fold, usable = segment.fold, list[Snapshot]()
        prefix, open_ = state_prefix(fold.name), self._sealer.open
        for count, (key, value) in enumerate(saved.items()):
            if count % _BREATHE == 0:
                await asyncio.sleep(0)
            if not key.startswith(prefix):
                continue
            snapshot: Snapshot = open_(Snapshot, key, value)
            if snapshot.position > position:
                raise SnapshotRefused(f"{snapshot.key}: saved at {snapshot.position}, now is {position}")
            if (snapshot.version, snapshot.term) == (fold.version, segment.term):
                usable.append(snapshot)
            elif snapshot.position >= marker.position:
                # Another version began to save over what the marker speaks of, and this one is back.
                raise SnapshotRefused(f"{snapshot.key}: saved by version {snapshot.version} since")
        if usable and fold.state is not None:
            load_state(fold.state, usable[0])  # another river, another class: mostly it shows here
        return usable

    def _refold(self, fold: str, why: str) -> None:
        name, partition = self.engine.topic.name, self.engine.partition
        log.warning("restore.refold", topic=name, partition=partition, fold=fold, why=why)

    async def _fold(self, ticks: Collection[e.Tick], first: int, start: int, position: int) -> None:
        engine = self.engine
        begin = max(first, start - WINDOW)
        between = turns(ticks, self._segments)
        log_, codec, topic, partition = self._log, engine.codec, engine.topic.name, engine.partition
        async for part in course(log_, codec, topic, partition, between, engine.skips, begin, position):
            await asyncio.sleep(0)
            if isinstance(part, Turn):
                await self._turn(part)
                continue
            known = bisect_left(part, start, key=lambda r: r.offset)
            for record in part[:known]:
                engine.remember(record)
            records = part[known:]
            self.events += len(records)
            engine.process(records)

    async def _turn(self, turn: Turn) -> None:
        engine = self.engine
        engine.position = turn.offset
        if isinstance(turn.what, e.Tick):
            engine.tick(turn.what.at)
        else:
            await engine.migrate(turn.what.fold, turn.what.term)
