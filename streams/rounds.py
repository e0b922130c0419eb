"""Rounds of snapshots: every few seconds the keys that changed, spread over batches within a budget."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from schemas import topics
from streams.engine import LIVE, Engine, Slot
from streams.log import Send
from streams.snapshots import Marker, Sealer, Skip, Snapshot, dump_state

INTERVAL_S = 5.0
SHARE = 0.1
"""Share of the time that snapshots may take: bounds what they cost, and with it how far a restore folds."""
_BATCH_BYTES = 4 * 1024 * 1024
_MIN_BUDGET_S = 0.002
MARKER_KEY = b"marker"
SKIP_PREFIX = b"skip\x00"
STATE_PREFIX = b"state\x00"


class Rounds:
    """When all keys that had changed by some position are saved, a marker says so: restores begin there."""

    def __init__(
        self,
        engine: Engine,
        sealer: Sealer,
        tick_offset: int,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.tick_offset = tick_offset
        """Offset in the ticks' topic from which a restore at the last begun round has to read."""
        self._sealer = sealer
        self._interval_s = interval_s
        self._clock = clock
        self._topic = topics.changelog(engine.topic.name)
        self._queue: deque[tuple[Slot, str]] = deque()
        self._marker: Marker | None = None
        self._begun = self._dumped = clock()

    def due(self) -> bool:
        """Whether a new round should begin."""
        return (
            self._marker is None
            and self._clock() - self._begun >= self._interval_s
            and any(slot.dirty for slot in self.engine.slots)
        )

    @property
    def open(self) -> bool:
        """Whether a round is under way."""
        return self._marker is not None

    def begin(self, tick_offset: int) -> None:
        """Freeze what has changed so far."""
        engine = self.engine
        self._begun = self._clock()
        self.tick_offset = tick_offset
        self._marker = Marker(
            engine.position,
            {slot.fold.name: slot.fold.version for slot in engine.slots if slot.fold.state is not None},
            dict(engine.clocks),
            tick_offset,
        )
        for slot in engine.slots:
            self._queue.extend((slot, key) for key in slot.dirty)
            slot.dirty = set()

    def take(self) -> list[Send]:
        """The next part of the open round, as large as the budget allows; the last one ends with the marker."""
        if self._marker is None:
            return []
        started = self._clock()
        budget = max(_MIN_BUDGET_S, (started - self._dumped) * SHARE)
        sends: list[Send] = []
        size = 0
        while self._queue and size < _BATCH_BYTES and self._clock() - started < budget:
            slot, key = self._queue.popleft()
            slot.dirty.discard(key)  # what it became since is saved, too
            sends.append(self._snapshot(slot, key))
            size += len(sends[-1].value or b"")
        self._dumped = self._clock()
        if not self._queue:
            sends.append(self._send(MARKER_KEY, self._sealer.seal(self._marker)))
            self._marker = None
        return sends

    def skip(self, skip: Skip) -> Send:
        """The record that keeps a restore from giving this to its fold."""
        return self._send(SKIP_PREFIX + repr(skip).encode(), self._sealer.seal(skip))

    def _snapshot(self, slot: Slot, key: str) -> Send:
        wake, clock = slot.wakes.get(key, (None, LIVE))
        state = dump_state(slot.states[key])
        snapshot = Snapshot(slot.fold.name, slot.fold.version, key, self.engine.position, state, wake, clock)
        name = STATE_PREFIX + slot.fold.name.encode() + b"\x00" + key.encode()
        return self._send(name, self._sealer.seal(snapshot))

    def _send(self, key: bytes, value: bytes) -> Send:
        return Send(self._topic, key, value, partition=self.engine.partition)
