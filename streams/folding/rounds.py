"""Rounds of snapshots: every few seconds the keys that changed, spread over batches within a budget."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import structlog

from schemas import topics
from schemas.errors import RecordTooLarge
from streams.folding.engine import Engine
from streams.folding.slot import Slot
from streams.folding.snapshots import Marker, Sealer, Skip, Snapshot, dump_state
from streams.partitions.log import Send

log = structlog.get_logger()
INTERVAL_S = 5.0
SHARE = 0.1
"""Share of the time that snapshots may take: bounds what they cost, and with it how far a restore folds."""
_BATCH_BYTES = 4 * 1024 * 1024
_MIN_BUDGET_S = 0.002
MARKER_KEY = b"marker"
SKIP_PREFIX = b"skip\x00"
STATE_PREFIX = b"state\x00"


def state_prefix(fold: str) -> bytes:
    """What the changelog's keys of a fold's snapshots begin with; the event's key follows."""
    return STATE_PREFIX + fold.encode() + b"\x00"


class Rounds:
    """When all keys that had changed by some position are saved, a marker says so: restores begin there.

    A state that cannot be saved (too large, or of a kind that cannot be written) stops nothing: it
    stays changed, the round ends without a marker, and a restore folds from the last one.
    """

    def __init__(
        self,
        engine: Engine,
        sealer: Sealer,
        tick_offset: int,
        *,
        saved: int = -1,
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
        self.unsaved = 0
        """States that could not be saved, counted each time."""
        self._queue: deque[tuple[Slot, str]] = deque()
        self._marker: Marker | None = None
        self._saved = saved
        """Position of the last marker: records that change nothing move it too, or restores grow long."""
        self._whole = True
        self._begun = self._dumped = clock()

    def due(self) -> bool:
        """Whether a new round should begin."""
        return (
            self._marker is None
            and self._clock() - self._begun >= self._interval_s
            and (self.engine.position != self._saved or any(slot.dirty for slot in self.engine.slots))
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
        stateful = [slot for slot in engine.slots if slot.fold.state is not None]
        self._marker = Marker(
            engine.position,
            {slot.fold.name: slot.fold.version for slot in stateful},
            dict(engine.clocks),
            tick_offset,
            {slot.fold.name: slot.term for slot in stateful if slot.term},
        )
        self._whole = True
        for slot in engine.slots:
            self._queue.extend((slot, key) for key in slot.dirty)
            slot.dirty = {}

    def take(self) -> list[Send]:
        """The next part of the open round, as large as the budget allows; the last ends with the marker."""
        if self._marker is None:
            return []
        started = self._clock()
        budget = max(_MIN_BUDGET_S, (started - self._dumped) * SHARE)
        sends: list[Send] = []
        size = 0
        while self._queue and size < _BATCH_BYTES and self._clock() - started < budget:
            slot, key = self._queue.popleft()
            slot.dirty.pop(key, None)  # what it became since is saved, too
            try:
                sends.append(self._snapshot(slot, key))
            except Exception as error:  # noqa: BLE001 - pickle runs the models' own code
                self._not_saved(slot, key, error)
            else:
                size += len(sends[-1].value or b"")
        self._dumped = self._clock()
        if not self._queue:
            if self._whole:
                self._saved = self._marker.position
                sends.append(self._send(MARKER_KEY, self._marker))
            self._marker = None
        return sends

    def abandon(self) -> None:
        """End the open round without a marker: what it had not saved is changed, as before."""
        for slot, key in self._queue:
            slot.dirty[key] = None
        self._queue.clear()
        self._marker = None

    def skip(self, skip: Skip) -> Send:
        """The record that keeps a restore from giving this to its fold."""
        return self._send(SKIP_PREFIX + repr(skip).encode(), skip)

    def _snapshot(self, slot: Slot, key: str) -> Send:
        wake, clock = self.engine.wakes.of(slot.fold.name, key)
        state = dump_state(slot.states[key])
        limit = self.engine.codec.max_record_bytes
        if len(state) > limit:
            raise RecordTooLarge(
                f"the state takes {len(state):,} bytes, the limit is {limit:,}",
                hint="keep less per key, or raise HEADWATER_MAX_RECORD_BYTES",
            )
        snapshot = Snapshot(
            slot.fold.name,
            slot.fold.version,
            key,
            self.engine.position,
            state,
            wake,
            clock,
            term=slot.term,
        )
        return self._send(state_prefix(slot.fold.name) + key.encode(), snapshot)

    def _not_saved(self, slot: Slot, key: str, error: Exception) -> None:
        slot.dirty[key] = None
        self._whole = False
        self.unsaved += 1
        log.error("snapshot.not_saved", fold=slot.fold.name, key=key, why=repr(error))

    def _send(self, name: bytes, content: Snapshot | Marker | Skip) -> Send:
        value = self._sealer.seal(name, content)
        return Send(self._topic, name, value, partition=self.engine.partition)
