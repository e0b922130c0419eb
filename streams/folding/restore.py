"""Bring an engine to a position of its partition: snapshots, then the log after them, outputs dropped."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from itertools import takewhile

import structlog

from schemas import events as e
from schemas import topics
from streams.folding.engine import Engine
from streams.folding.rounds import MARKER_KEY, SKIP_PREFIX, state_prefix
from streams.folding.slot import Slot
from streams.folding.snapshots import Marker, Sealer, Skip, Snapshot, SnapshotRefused, load_state
from streams.folding.wakes import LIVE
from streams.folding.window import WINDOW
from streams.partitions.log import Log, Step

log = structlog.get_logger()
_BREATHE = 64
"""Snapshots opened between two turns of the event loop: a worker that does not beat is thrown out."""


class Restore:
    """One restore of one partition, without the snapshots of the folds named in `refold`.

    `run` raises Spoilt where a fold raises on what it once took, or a state cannot be loaded.
    """

    def __init__(
        self, engine: Engine, source: Log, sealer: Sealer, step: Step, refold: Collection[str] = ()
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

    async def run(self, first: int, position: int) -> None:
        """Restore to `position`; `first` is where the log starts."""
        engine = self.engine
        for slot in engine.slots:
            if slot.fold.state is None:
                slot.floor = position
        if not engine.stateful:
            if engine.deduplicates:
                await self._fold(deque(), first, position, position)
            return
        saved = await self._changelog()
        marker = self._marker(saved.pop(MARKER_KEY, None))
        self._skips(saved)
        start = await self._adopt(saved, marker, first, position)
        self._step("restore.loaded")
        ticks = await self._ticks(position)
        await self._fold(ticks, first, start, position)
        self._step("restore.folded")

    async def _changelog(self) -> dict[bytes, bytes]:
        """The last value of each key."""
        name = topics.changelog(self.engine.topic.name)
        first, end = await self._log.bounds(name, self.engine.partition)
        saved: dict[bytes, bytes] = {}
        async for batch in self._log.read(name, self.engine.partition, first, end):
            for record in batch:
                if record.value is None:
                    saved.pop(record.key or b"", None)
                elif record.key is not None:
                    saved[record.key] = record.value
        return saved

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

    def _skips(self, saved: dict[bytes, bytes]) -> None:
        for key in [k for k in saved if k.startswith(SKIP_PREFIX)]:
            try:
                skip: Skip = self._sealer.open(Skip, key, saved.pop(key))
            except SnapshotRefused as error:
                log.warning("restore.skip_refused", partition=self.engine.partition, why=str(error))
            else:
                self.engine.skips[skip] = None

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
            if marker is None or slot.fold.state is None:
                continue
            try:
                prefix = state_prefix(slot.fold.name)
                values = {key: value for key, value in saved.items() if key.startswith(prefix)}
                usable = await self._usable(slot, values, marker, position)
            except SnapshotRefused as error:
                self._refold(slot.fold.name, str(error))
                complete = False
                continue
            slot.floor = marker.position
            for snapshot in usable:
                self.engine.adopt(slot, snapshot)
        if marker is None or not complete:
            return first
        self.engine.clocks.update(marker.clocks)
        self.tick_offset = marker.tick_offset
        return max(first, marker.position)

    async def _usable(
        self, slot: Slot, values: dict[bytes, bytes], marker: Marker, position: int
    ) -> list[Snapshot]:
        """All snapshots of a fold. Raises SnapshotRefused where one of them does not fit the log."""
        fold = slot.fold
        if fold.name in self._refolded:
            raise SnapshotRefused("a state could not be loaded")
        if marker.folds.get(fold.name) != fold.version:
            raise SnapshotRefused(f"it is version {fold.version}, saved was {marker.folds.get(fold.name)}")
        if marker.position > position:
            raise SnapshotRefused(f"saved was {marker.position}, the group's position was set to {position}")
        usable = []
        for count, (name, value) in enumerate(values.items()):
            if count % _BREATHE == 0:
                await asyncio.sleep(0)
            snapshot: Snapshot = self._sealer.open(Snapshot, name, value)
            if snapshot.position > position:
                raise SnapshotRefused(f"{snapshot.key}: saved at {snapshot.position}, now is {position}")
            if snapshot.version == fold.version:
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

    async def _ticks(self, position: int) -> deque[e.Tick]:
        """Recorded ticks that the state does not reflect yet."""
        name = topics.ticks(self.engine.topic.name)
        first, end = await self._log.bounds(name, self.engine.partition)
        reflected = self.engine.clocks.get(LIVE, float("-inf"))
        ticks: deque[e.Tick] = deque()
        async for batch in self._log.read(name, self.engine.partition, max(first, self.tick_offset), end):
            await self.engine.codec.learn(batch)
            for record in batch:
                tick = self.engine.codec.decode(record.value)
                assert isinstance(tick, e.Tick)
                while ticks and ticks[-1].after_offset > tick.after_offset:
                    ticks.pop()  # the group's position was set back: what came of these is void
                if tick.at > reflected and tick.after_offset <= position:
                    ticks.append(tick)
        self.tick_offset = end
        return ticks

    async def _fold(self, ticks: deque[e.Tick], first: int, start: int, position: int) -> None:
        engine = self.engine
        name, partition = engine.topic.name, engine.partition
        async for batch in self._log.read(name, partition, max(first, start - WINDOW), position):
            await asyncio.sleep(0)
            # What was undecodable stays so: nobody needs to be asked, who may be away.
            skips = engine.skips
            await engine.codec.learn(
                [r for r in batch if Skip("", r.offset) not in skips] if skips else batch
            )
            for record in takewhile(lambda r: r.offset < start, batch):
                engine.remember(record)
            records = [r for r in batch if r.offset >= start]
            self.events += len(records)
            while records:
                while ticks and ticks[0].after_offset <= records[0].offset:
                    self._tick(ticks.popleft())
                until = ticks[0].after_offset if ticks else position
                engine.process([r for r in records if r.offset < until])
                records = [r for r in records if r.offset >= until]
        while ticks:
            self._tick(ticks.popleft())

    def _tick(self, tick: e.Tick) -> None:
        self.engine.position = tick.after_offset
        self.engine.tick(tick.at)
