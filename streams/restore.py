"""Bring an engine to a position of its partition: snapshots, then the log after them, outputs dropped."""

from __future__ import annotations

from collections import deque

import structlog

from schemas import events as e
from schemas import topics
from streams.engine import LIVE, Engine, Slot
from streams.log import Log, Step
from streams.rounds import MARKER_KEY, SKIP_PREFIX, STATE_PREFIX
from streams.snapshots import Marker, Sealer, Skip, Snapshot, SnapshotRefused, load_state
from streams.window import WINDOW

log = structlog.get_logger()


class Restore:
    """One restore of one partition. `run` raises Poison where a fold raises on what it once took."""

    def __init__(self, engine: Engine, source: Log, sealer: Sealer, step: Step) -> None:
        self.engine = engine
        self.events = 0
        self.tick_offset = 0
        self._log = source
        self._sealer = sealer
        self._step = step

    async def run(self, first: int, position: int) -> None:
        """Restore to `position`; `first` is where the log starts."""
        saved = await self._changelog()
        marker = self._marker(saved.pop(MARKER_KEY, None))
        self._skips(saved)
        start = self._adopt(saved, marker, first)
        self._step("restore.loaded")
        ticks = await self._ticks()
        await self._fold(ticks, first, start, position)
        self._step("restore.folded")

    async def _changelog(self) -> dict[bytes, bytes]:
        """The last value of each key."""
        name = topics.changelog(self.engine.topic.name)
        first, end = await self._log.bounds(name, self.engine.partition)
        saved: dict[bytes, bytes] = {}
        async for batch in self._log.read(name, self.engine.partition, first, end):
            for record in batch:
                if record.key is not None and record.value is not None:
                    saved[record.key] = record.value
        return saved

    def _marker(self, value: bytes | None) -> Marker | None:
        if value is None:
            return None
        try:
            marker: Marker = self._sealer.open(Marker, value)
        except SnapshotRefused as error:
            self._refold("all", str(error))
            return None
        return marker

    def _skips(self, saved: dict[bytes, bytes]) -> None:
        for key in [k for k in saved if k.startswith(SKIP_PREFIX)]:
            try:
                skip: Skip = self._sealer.open(Skip, saved.pop(key))
            except SnapshotRefused as error:
                log.warning("restore.skip_refused", partition=self.engine.partition, why=str(error))
            else:
                self.engine.skips[skip] = None

    def _adopt(self, saved: dict[bytes, bytes], marker: Marker | None, first: int) -> int:
        """Take each fold's snapshots if all of them are usable; returns from where to fold."""
        by_fold: dict[bytes, list[bytes]] = {}
        for key, value in saved.items():
            by_fold.setdefault(key.removeprefix(STATE_PREFIX).split(b"\x00", 1)[0], []).append(value)
        complete = marker is not None
        for slot in self.engine.slots:
            if slot.fold.state is None:
                continue
            values = by_fold.get(slot.fold.name.encode(), [])
            if marker is None or not self._adopt_fold(slot, values, marker):
                complete = False
        if marker is None or not complete:
            return first
        self.engine.clocks.update(marker.clocks)
        self.tick_offset = marker.tick_offset
        return max(first, marker.position)

    def _adopt_fold(self, slot: Slot, values: list[bytes], marker: Marker) -> bool:
        fold = slot.fold
        assert fold.state is not None
        if marker.folds.get(fold.name) != fold.version:
            self._refold(fold.name, f"it is version {fold.version}, saved was {marker.folds.get(fold.name)}")
            return False
        try:
            loaded = []
            for value in values:
                snapshot: Snapshot = self._sealer.open(Snapshot, value)
                if snapshot.version == fold.version:
                    loaded.append((snapshot, load_state(fold.state, snapshot)))
        except SnapshotRefused as error:
            self._refold(fold.name, str(error))
            return False
        slot.floor = marker.position
        for snapshot, state in loaded:
            self.engine.adopt(slot, snapshot.key, state, snapshot.position, snapshot.wake, snapshot.clock)
        return True

    def _refold(self, fold: str, why: str) -> None:
        name, partition = self.engine.topic.name, self.engine.partition
        log.warning("restore.refold", topic=name, partition=partition, fold=fold, why=why)

    async def _ticks(self) -> deque[e.Tick]:
        """Recorded ticks that the state does not reflect yet."""
        name = topics.ticks(self.engine.topic.name)
        first, end = await self._log.bounds(name, self.engine.partition)
        reflected = self.engine.clocks.get(LIVE, float("-inf"))
        ticks: deque[e.Tick] = deque()
        async for batch in self._log.read(name, self.engine.partition, max(first, self.tick_offset), end):
            for record in batch:
                tick = self.engine.codec.decode(record.value)
                assert isinstance(tick, e.Tick)
                if tick.at > reflected:
                    ticks.append(tick)
        self.tick_offset = end
        return ticks

    async def _fold(self, ticks: deque[e.Tick], first: int, start: int, position: int) -> None:
        engine = self.engine
        name, partition = engine.topic.name, engine.partition
        async for batch in self._log.read(name, partition, max(first, start - WINDOW), position):
            for record in batch:
                if record.offset < start:
                    engine.remember(record)
                    continue
                while ticks and ticks[0].after_offset <= record.offset:
                    self._tick(ticks.popleft())
                engine.process(record)
                self.events += 1
        while ticks:
            self._tick(ticks.popleft())

    def _tick(self, tick: e.Tick) -> None:
        self.engine.position = tick.after_offset
        self.engine.tick(tick.at)
