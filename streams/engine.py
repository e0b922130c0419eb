"""The folds of one partition: records in, records out, state between. No I/O; the same in Kafka and simulation.

What a fold gives is a function of the partition's records, its recorded ticks and its skips alone.
That is what makes a restart exact: load snapshots, fold what came after, drop the outputs.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from processors.fold import Fold, Wake
from schemas import events as e
from schemas import topics
from schemas.codec import Codec, Record
from schemas.envelope import DEFAULT_PROJECT, Envelope, derived_id, to_headers
from schemas.errors import DecodeError
from streams.log import Send
from streams.snapshots import Skip
from streams.window import Window

CLAMP_S = 300.0
"""A live event's time may be this far ahead of the broker's; beyond, it is set back and counted."""
_SOON = 0.001
LIVE = ""


class Poison(Exception):  # noqa: N818 - it is a verdict on a record, caught by the task that hosts the engine
    """A fold raised. The engine's state is spoilt: build it anew with `skip`, then go on."""

    def __init__(self, skip: Skip, cause: Exception) -> None:
        super().__init__(f"fold {skip.fold} raised {cause!r} at offset {skip.offset}")
        self.skip = skip
        self.cause = cause


class FoldStats:
    """What is measured of one fold in one partition; it outlives engines, so that counters never fall."""

    def __init__(self) -> None:
        self.events = self.outputs = self.nanoseconds = self.dead_letters = 0


class Slot:
    """One fold in one partition: its states by key, and what is measured of it."""

    def __init__(self, fold: Fold[Any]) -> None:
        self.fold = fold
        self.states: dict[str, Any] = {}
        self.wakes: dict[str, tuple[float, str]] = {}
        self.dirty: set[str] = set()
        self.covered: dict[str, int] = {}
        """While restoring: the position up to which a key's snapshot holds."""
        self.floor = 0
        """While restoring: every change of this fold below this offset is in the snapshots."""
        self.stats = FoldStats()


class Engine:
    """Folds records of one (topic, partition), in order."""

    def __init__(
        self,
        topic: topics.Topic,
        partition: int,
        folds: Iterable[Fold[Any]],
        codec: Codec,
        group: str = "folds",
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.group = group
        self.codec = codec
        self.slots = [Slot(fold) for fold in folds]
        self.position = 0
        self.clocks: dict[str, float] = {}
        self.skips: dict[Skip, Exception | None] = {}
        """What is not given to a fold again; with its cause while that is not yet in the log."""
        self.letters: list[tuple[Skip, Send]] = []
        """Dead letters made since the task last took them, each with the skip that belongs to it."""
        self.clamped = self.duplicates = self.undecodable = 0
        self._window = Window() if topic.kind != "raw" else None
        self._routes: dict[type[e.Event], list[Slot]] = {}
        for slot in self.slots:
            for event_type in slot.fold.accepts:
                self._routes.setdefault(event_type, []).append(slot)
        self._heaps: dict[str, list[tuple[float, str, str]]] = {}
        self._by_name = {slot.fold.name: slot for slot in self.slots}

    # --- records -----------------------------------------------------------------------------

    def process(self, record: Record) -> list[Send]:
        """Fold one record; returns what it led to. Raises Poison, after which the engine is spoilt."""
        out: list[Send] = []
        offset = record.offset
        self.position = offset + 1
        if self.skips and Skip("", offset) in self.skips:
            return out  # it could not be decoded then; that it could be now must not change the past
        try:
            decoded = self.codec.decode_record(record)
        except DecodeError as error:
            self.undecodable += 1
            self._dead_letter(record, None, error)
            return out
        envelope = decoded.envelope
        if envelope.replay_of is not None:
            at = self._event_time(envelope, record)
            out += self._advance(envelope, at)
            slot = self._by_name.get(envelope.replay_of)
            targets = [slot] if slot is not None and slot in self._routes.get(type(decoded.event), ()) else []
        else:
            if self._window is not None and self._window.seen(envelope, offset):
                self.duplicates += 1
                return out
            at = self._event_time(envelope, record)
            out += self._advance(envelope, at)
            targets = self._routes.get(type(decoded.event), [])
        for slot in targets:
            if offset < slot.floor or offset < slot.covered.get(decoded.key, 0):
                continue
            skip = Skip(slot.fold.name, offset)
            if self.skips and skip in self.skips:
                cause = self.skips[skip]
                if cause is not None:
                    self._dead_letter(record, slot, cause)
                continue
            cause_id = (envelope.project, envelope.source, envelope.id)
            out += self._call(slot, decoded.key, decoded.event, at, envelope, cause_id, skip)
        return out

    def remember(self, record: Record) -> None:
        """Note a record before the point of restoring: it counts for duplicates, and for nothing else."""
        if self._window is None:
            return
        try:
            decoded = self.codec.decode_record(record)
        except DecodeError:
            return  # it is a dead letter already, and has no id
        if decoded.envelope.replay_of is None:
            self._window.seen(decoded.envelope, record.offset)

    def _event_time(self, envelope: Envelope, record: Record) -> float:
        if envelope.clock == "live" and envelope.time > record.timestamp + CLAMP_S:
            self.clamped += 1
            return record.timestamp + CLAMP_S
        return envelope.time

    def _call(
        self,
        slot: Slot,
        key: str,
        event: e.Event | None,
        at: float,
        cause: Envelope,
        cause_id: tuple[str, ...],
        skip: Skip,
    ) -> list[Send]:
        """Give the fold an event, or (None) the wake that it asked for; nothing is kept where it raises."""
        fold = slot.fold
        started = time.perf_counter_ns()
        sends: list[Send] = []
        try:
            state = None
            if fold.state is not None:
                state = slot.states.get(key)
                if state is None:
                    state = slot.states[key] = fold.initial(key)
                slot.dirty.add(key)
            results = fold.on_wake(state, at) if event is None else fold.on_event(state, event, at)
            for result in results:
                if isinstance(result, Wake):
                    self._set_wake(slot, key, result.at, cause.project if cause.clock == "replay" else LIVE)
                else:
                    sends.append(self._produced(fold, result, at, cause, cause_id, len(sends)))
        except Exception as error:
            raise Poison(skip, error) from error
        slot.stats.events += 1
        slot.stats.outputs += len(sends)
        slot.stats.nanoseconds += time.perf_counter_ns() - started
        return sends

    def _produced(
        self,
        fold: Fold[Any],
        event: e.Event,
        at: float,
        cause: Envelope,
        cause_id: tuple[str, ...],
        ordinal: int,
    ) -> Send:
        if type(event) not in fold.emits:
            raise TypeError(
                f"{fold.name} yielded {type(event).__name__}, which it does not declare in `emits`"
            )
        topic = topics.topic_of(type(event))
        key = topics.key_of(event)
        envelope = Envelope(
            id=derived_id(*cause_id, self.group, fold.name, fold.version, ordinal),
            source=f"headwater/{self.group}/{fold.name}",
            type=type(event).__name__,
            time=at,
            project=cause.project,
            subject=key,
            correlation_id=cause.correlation_id,
            causation_id=cause.id or None,
            traceparent=cause.traceparent,
            clock=cause.clock,
        )
        return Send(
            topic.name, f"{cause.project}/{key}".encode(), self.codec.encode(event), to_headers(envelope)
        )

    def _dead_letter(self, record: Record, slot: Slot | None, cause: Exception) -> None:
        letter = e.DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            fold=slot.fold.name if slot else None,
            error_type=type(cause).__name__,
            error_message=str(cause)[:4096],
            key=record.key,
            value=record.value,
            headers={k: v or b"" for k, v in record.headers},
        )
        self._post(letter, Skip(letter.fold or "", record.offset), _project_of(record), record.timestamp)

    def _post(self, letter: e.DeadLetter, skip: Skip, project: str, at: float) -> None:
        if letter.fold is not None:
            self._by_name[letter.fold].stats.dead_letters += 1
        envelope = Envelope(
            id=derived_id(letter.topic, letter.partition, repr(skip)),
            source=f"headwater/{self.group}",
            type="DeadLetter",
            time=at,
            project=project,
            subject=letter.topic,
        )
        value = self.codec.encode(letter, limited=False)
        key = f"{project}/{letter.topic}".encode()
        self.letters.append((skip, Send(topics.DEAD_LETTERS.name, key, value, to_headers(envelope))))

    # --- time --------------------------------------------------------------------------------

    def _set_wake(self, slot: Slot, key: str, at: float, clock: str) -> None:
        # Never in the past: a wake that a snapshot holds must not be due before that snapshot.
        at = max(at, self.clocks.get(clock, 0.0) + _SOON)
        slot.wakes[key] = (at, clock)
        heapq.heappush(self._heaps.setdefault(clock, []), (at, slot.fold.name, key))

    def _advance(self, envelope: Envelope, at: float) -> list[Send]:
        """A replayed project's clock moves with its data."""
        if envelope.clock != "replay" or at <= self.clocks.get(envelope.project, float("-inf")):
            return []
        self.clocks[envelope.project] = at
        return self._wake_due(envelope.project, at)

    def tick(self, at: float) -> list[Send]:
        """Live projects' time is now `at` (seconds since 1970). Raises Poison."""
        self.clocks[LIVE] = at
        return self._wake_due(LIVE, at)

    def next_wake(self) -> float | None:
        """When a live project's fold wants to be woken next."""
        heap = self._heaps.get(LIVE)
        while heap and not self._is_open(heap[0], LIVE):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _is_open(self, entry: tuple[float, str, str], clock: str) -> bool:
        at, fold, key = entry
        return self._by_name[fold].wakes.get(key) == (at, clock)

    def _wake_due(self, clock: str, at: float) -> list[Send]:
        heap = self._heaps.get(clock)
        out: list[Send] = []
        while heap and heap[0][0] <= at:
            entry = heapq.heappop(heap)
            if self._is_open(entry, clock):
                out += self._wake(*entry, clock, at)
        return out

    def _wake(self, wanted: float, fold: str, key: str, clock: str, at: float) -> list[Send]:
        slot = self._by_name[fold]
        del slot.wakes[key]
        project = key.partition("/")[0]
        skip = Skip(fold, -1, key, wanted)  # a key's wakes strictly ascend: no position is needed
        slot.dirty.add(key)
        if skip in self.skips:
            cause = self.skips[skip]
            if cause is not None:
                self._wake_letter(slot, skip, at, project, cause)
            return []
        envelope = Envelope(
            id="",
            source="",
            type="Tick",
            time=at,
            project=project,
            clock="live" if clock == LIVE else "replay",
        )
        cause_id = (project, self.topic.name, key, "wake", repr(wanted))
        return self._call(slot, key, None, at, envelope, cause_id, skip)

    def _wake_letter(self, slot: Slot, skip: Skip, at: float, project: str, cause: Exception) -> None:
        letter = e.DeadLetter(
            topic=topics.ticks(self.topic.name),
            partition=self.partition,
            offset=self.position,
            fold=slot.fold.name,
            error_type=type(cause).__name__,
            error_message=str(cause)[:4096],
            key=skip.key.encode(),
        )
        self._post(letter, skip, project, at)

    # --- restoring ---------------------------------------------------------------------------

    def adopt(
        self, slot: Slot, key: str, state: msgspec.Struct, position: int, wake: float | None, clock: str
    ) -> None:
        """Take a key's state from its snapshot."""
        slot.states[key] = state
        slot.covered[key] = position
        if wake is not None:
            slot.wakes[key] = (wake, clock)
            heapq.heappush(self._heaps.setdefault(clock, []), (wake, slot.fold.name, key))

    def restored(self) -> None:
        """Restoring is over: snapshots' positions lie behind."""
        for slot in self.slots:
            slot.covered = {}
            slot.floor = 0


def _project_of(record: Record) -> str:
    """The project of a record that may not be readable."""
    raw = dict(record.headers).get("ce_project")
    try:
        return (raw or b"").decode() or DEFAULT_PROJECT
    except UnicodeDecodeError:
        return DEFAULT_PROJECT
