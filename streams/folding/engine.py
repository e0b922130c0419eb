"""The folds of one partition: records in, records out, state between. No I/O, in Kafka and simulation alike.

What a fold gives is a function of the partition's records, its recorded ticks and its skips alone.
That is what makes a restart exact: load snapshots, fold what came after, drop the outputs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from processors.fold import Fold, Wake
from schemas import events as e
from schemas import topics
from schemas.codec import Codec, Decoded, Record
from schemas.envelope import FOLD_VERSION, Envelope, derived_id, name_in, to_headers
from schemas.errors import RecordTooLarge
from streams.folding.slot import Slot, Spoilt
from streams.folding.snapshots import Skip, Snapshot
from streams.folding.wakes import LIVE, Wakes
from streams.folding.window import Window
from streams.partitions import letters
from streams.partitions.log import FOLDS, Send

CLAMP_S = 300.0
"""A live event's time may be this far ahead of the broker's; beyond, it is set back and counted."""
_BREATHE = 32
"""Keys migrated between two turns of the event loop."""
MAX_METADATA_BYTES = 32 * 1024
"""Of an output's key and headers, which it has partly from its cause; topics leave room for 64 KiB."""


class Poison(Spoilt):
    """A fold raised: build the engine's state anew with `skip`, then go on."""

    def __init__(self, skip: Skip, cause: Exception) -> None:
        super().__init__(f"fold {skip.fold} raised {cause!r} at offset {skip.offset}")
        self.skip = skip
        self.cause = cause


class NotMigrated(Spoilt):
    """A version cannot take over the state that another left of a key."""

    def __init__(self, fold: Fold[Any], key: str, cause: Exception) -> None:
        super().__init__(f"fold {fold.name} version {fold.version} could not migrate {key}: {cause!r}")
        self.fold = fold.name


class Engine:
    """Folds records of one (topic, partition), in order."""

    def __init__(
        self,
        topic: topics.Topic,
        partition: int,
        folds: Iterable[Fold[Any]],
        codec: Codec,
        group: str = FOLDS,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.group = group
        self.codec = codec
        self.slots = [Slot(fold) for fold in folds]
        self.deduplicates = topic.kind != "raw"
        self.position = 0
        self.clocks: dict[str, float] = {}
        self.wakes = Wakes()
        self.skips: dict[Skip, Exception | None] = {}
        """What is not given to a fold again; with its cause while that is not yet in the log."""
        self.letters: list[tuple[Skip, Send]] = []
        """Dead letters made since the task last took them, each with the skip that belongs to it."""
        self.clamped = self.duplicates = self.undecodable = 0
        self._window = Window() if self.deduplicates else None
        self._routes: dict[type[e.Event], list[Slot]] = {}
        self._by_name = {slot.fold.name: slot for slot in self.slots}
        self._route()

    def _route(self) -> None:
        self.stateful = any(slot.fold.state is not None for slot in self.slots)
        self._routes.clear()
        for slot in self.slots:
            for event_type in slot.fold.accepts:
                self._routes.setdefault(event_type, []).append(slot)

    def put(self, slot: Slot, fold: Fold[Any], term: int) -> None:
        """Let another version of the slot's fold go on, with all that is there."""
        slot.fold, slot.term = fold, term
        self._route()

    async def migrated(self, slot: Slot, fold: Fold[Any]) -> dict[str, Any]:
        """The slot's states as another version of its fold takes them over. Raises Spoilt where it cannot.

        Others have their turn between a few keys: to load a model takes a millisecond.
        """
        states: dict[str, Any] = {}
        for count, key in enumerate([*slot.states, *slot.packed]):
            if count % _BREATHE == 0:
                await asyncio.sleep(0)
            slot.unpack(key)
            try:
                states[key] = fold.migrate(slot.states[key], slot.fold.version)
            except Exception as error:
                raise NotMigrated(fold, key, error) from error
        return states

    async def migrate(self, fold: Fold[Any], term: int) -> None:
        """Let another version take over the states of its fold. Raises as `migrated`."""
        slot = self._by_name[fold.name]
        self.take_over(slot, await self.migrated(slot, fold), fold, term)

    def take_over(self, slot: Slot, states: dict[str, Any], fold: Fold[Any], term: int) -> None:
        """Let another version of the slot's fold go on with these states, and the wakes that are there."""
        if fold.state is None:
            self.wakes.replace(fold.name, Wakes())
        slot.states, slot.packed, slot.dirty = states, {}, dict.fromkeys(states)
        self.put(slot, fold, term)

    def succeed(self, slot: Slot, other: Engine, term: int) -> None:
        """Let the one fold of another engine, at the same position, go on in the slot, with its own state and wakes."""
        (successor,) = other.slots
        self.wakes.replace(slot.fold.name, other.wakes)
        self.take_over(slot, successor.states, successor.fold, term)

    def catch_up(self, other: Engine) -> None:
        """Be as late as another engine, at the same position, that knows more of time."""
        for clock, at in other.clocks.items():
            self.clocks[clock] = max(at, self.clocks.get(clock, at))

    def process(self, records: Sequence[Record]) -> list[Send]:
        """Fold records; returns what they led to. Raises Spoilt, after which the engine is of no use.

        All are decoded before the first is folded: that the same code runs over and over saves a
        tenth of the time, since it and its data stay in the processor's caches.
        """
        out: list[Send] = []
        for record, decoded in zip(records, [self._decoded(r) for r in records], strict=True):
            self._process(record, decoded, out)
        return out

    def _decoded(self, record: Record) -> Decoded | Exception:
        try:
            return self.codec.decode_record(record)
        except Exception as error:  # noqa: BLE001 - what foreign bytes raise is not ours to foresee
            return error

    def _process(self, record: Record, decoded: Decoded | Exception, out: list[Send]) -> None:
        offset = record.offset
        self.position = offset + 1
        if self.skips and Skip("", offset) in self.skips:
            return  # it could not be decoded then; that it could be now must not change the past
        if isinstance(decoded, Exception):
            self.undecodable += 1
            self._dead_letter(record, None, decoded)
            return
        envelope = decoded.envelope
        addressed = envelope.replay_of
        if addressed is None and self._window is not None and self._window.seen(envelope.name, offset):
            self.duplicates += 1
            return
        at = envelope.time
        if envelope.clock == "replay":
            self._advance(envelope.project, at, out)
        elif at > record.timestamp + CLAMP_S:
            self.clamped += 1
            at = record.timestamp + CLAMP_S
        for slot in self._routes.get(type(decoded.event), ()):
            if offset < slot.floor or (slot.covered and offset < slot.covered.get(decoded.key, 0)):
                continue
            if addressed is None or addressed == slot.fold.name:
                self._give(slot, record, decoded, at, out)

    def _give(self, slot: Slot, record: Record, decoded: Decoded, at: float, out: list[Send]) -> None:
        """Let the fold answer a record; a dead letter where it is noted that it raises."""
        if self.skips and (skip := Skip(slot.fold.name, record.offset)) in self.skips:
            cause = self.skips[skip]
            if cause is not None:
                self._dead_letter(record, slot, cause)
            return
        if slot.packed:
            slot.unpack(decoded.key)
        try:
            self._call(slot, decoded.key, decoded.event, at, decoded.envelope, out)
        except Exception as error:
            if slot.fold.state is not None:
                raise Poison(Skip(slot.fold.name, record.offset), error) from error
            self._dead_letter(record, slot, error)  # it has no state that could be spoilt

    def remember(self, record: Record) -> None:
        """Note a record before the point of restoring: it counts for duplicates, and for nothing else."""
        if self._window is None or Skip("", record.offset) in self.skips:
            return
        try:
            if not self.stateful:  # skips tell what could not be decoded then; here it is seen anew
                self.codec.decode_record(record)
            topic, partition, offset = record.topic, record.partition, record.offset
            name = name_in(record.headers, topic=topic, partition=partition, offset=offset)
        except Exception:  # noqa: BLE001 - as in `process`; it is a dead letter already, and has no id
            return
        if name is not None:
            self._window.seen(name, record.offset)

    def _call(
        self,
        slot: Slot,
        key: str,
        event: e.Event | None,
        at: float,
        cause: Envelope,
        out: list[Send],
        wanted: float = 0.0,
    ) -> None:
        """Give the fold an event, or (None) the wake that it asked for at `wanted`; `out` takes what it yields.

        Raises what the fold raises; then `out` has nothing of it.
        """
        fold = slot.fold
        started = time.perf_counter_ns()
        before = len(out)
        try:
            state = None
            if fold.state is not None:
                state = slot.states.get(key)
                if state is None:
                    state = slot.states[key] = fold.initial(key)
                slot.dirty[key] = None
            results = fold.on_wake(state, at) if event is None else fold.on_event(state, event, at)
            for result in results:
                if isinstance(result, Wake):
                    self._ask(fold, key, result, cause)
                    continue
                cause_id = (
                    (cause.project, cause.source, cause.id)
                    if event is not None
                    else (cause.project, self.topic.name, key, "wake", repr(wanted))
                )
                out.append(self._produced(fold, result, at, cause, cause_id, len(out) - before))
        except Exception:
            del out[before:]
            raise
        stats = slot.stats
        stats.events += 1
        stats.outputs += len(out) - before
        stats.nanoseconds += time.perf_counter_ns() - started

    def _ask(self, fold: Fold[Any], key: str, wake: Wake, cause: Envelope) -> None:
        assert fold.state is not None, f"{fold.name} keeps no state, so it cannot ask to be woken"
        clock = cause.project if cause.clock == "replay" else LIVE
        self.wakes.ask(fold.name, key, wake.at, clock, self.clocks.get(clock, 0.0))

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
        headers = to_headers(envelope)
        headers.append((FOLD_VERSION, b"%d" % fold.version))
        send = Send(topic.name, f"{cause.project}/{key}".encode(), self.codec.encode(event), headers)
        size = len(send.key) + sum(len(name) + len(value) for name, value in headers)
        if size > MAX_METADATA_BYTES:  # the broker would refuse the whole transaction, again and again
            raise RecordTooLarge(
                f"{envelope.type}: key and headers take {size:,} bytes, the limit is {MAX_METADATA_BYTES:,}",
                hint="shorten the key, the correlation id, or the causing event's id",
            )
        return send

    def _dead_letter(self, record: Record, slot: Slot | None, cause: Exception) -> None:
        letter = letters.of_record(record, slot.fold.name if slot else None, cause)
        skip = Skip(letter.fold or "", record.offset)
        self._post(letter, skip, letters.project_of(record), record.timestamp)

    def _post(self, letter: e.DeadLetter, skip: Skip, project: str, at: float) -> None:
        self.letters.append((skip, letters.send(letter, repr(skip), project, at, self.group, self.codec)))

    def _advance(self, project: str, at: float, out: list[Send]) -> None:
        """A replayed project's clock moves with its data."""
        if at > self.clocks.get(project, float("-inf")):
            self.clocks[project] = at
            self._wake_due(project, at, out)

    def tick(self, at: float) -> list[Send]:
        """Live projects' time is now `at` (seconds since 1970). Raises Spoilt."""
        out: list[Send] = []
        self.clocks[LIVE] = at
        self._wake_due(LIVE, at, out)
        return out

    def next_wake(self) -> float | None:
        """When a live project's fold wants to be woken next."""
        return self.wakes.next(LIVE)

    def _wake_due(self, clock: str, at: float, out: list[Send]) -> None:
        for wanted, fold, key in self.wakes.due(clock, at):
            self._wake(wanted, fold, key, clock, at, out)

    def _wake(self, wanted: float, fold: str, key: str, clock: str, at: float, out: list[Send]) -> None:
        slot = self._by_name[fold]
        project = key.partition("/")[0]
        skip = Skip(fold, -1, key, wanted)  # a key's wakes strictly ascend: no position is needed
        slot.unpack(key)
        slot.dirty[key] = None
        if skip in self.skips:
            cause = self.skips[skip]
            if cause is not None:
                topic = topics.ticks(self.topic.name)
                letter = letters.of_wake(topic, self.partition, self.position, fold, key, cause)
                self._post(letter, skip, project, at)
            return
        envelope = Envelope(
            id="",
            source="",
            type="Tick",
            time=at,
            project=project,
            clock="live" if clock == LIVE else "replay",
        )
        try:
            self._call(slot, key, None, at, envelope, out, wanted)
        except Exception as error:
            raise Poison(skip, error) from error

    def adopt(self, slot: Slot, snapshot: Snapshot) -> None:
        """Take a key's state from its snapshot; it is loaded when it is needed."""
        slot.packed[snapshot.key] = snapshot
        if snapshot.position > slot.floor:
            slot.covered[snapshot.key] = snapshot.position
        if snapshot.wake is not None:
            self.wakes.put(slot.fold.name, snapshot.key, snapshot.wake, snapshot.clock)

    def restored(self) -> None:
        """Restoring is over: snapshots' positions lie behind, and what is counted begins now."""
        self.clamped = self.duplicates = self.undecodable = 0
        for slot in self.slots:
            slot.covered = {}
            slot.floor = 0
