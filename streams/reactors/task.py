"""One partition's way with a reactor: plan, write down, act, write down what came of it.

A transaction of the partition's fenced producer carries the input position, what is planned, what is
about to be called, and what came of calls. A call begins only after the transaction with its intent.
So of an effect that is found intended after a takeover, and whose call is not our own, nobody knows
whether it happened. Calls outlive a fault of the log: what came of them is written once it is back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from schemas import topics
from schemas.codec import Codec, Decoded, Record
from schemas.envelope import derived_id
from schemas.errors import HeadwaterError
from streams.partitions.log import Log, Send, Step, Transactions, require_in_log
from streams.reactors.ledger import Entry, Ledger, Outcome
from streams.reactors.reactor import Call, Done, Effect, NotActed, NotWanted, OutcomeUnknown, Reactor
from streams.reactors.records import Records, decode

log = structlog.get_logger()
GRACE_S = 1.0
"""Before a partition goes elsewhere, calls under way may end and be written down for so long."""


class _Ended(NamedTuple):
    """What came of a call: `said` is what `perform` returned or raised."""

    attempt: int
    said: Done | Exception
    latency_ms: float | None


class Stats:
    """Counts of one reactor in one partition; they never fall."""

    def __init__(self) -> None:
        self.events = self.calls = self.deferred = 0
        self.succeeded = self.failed = self.unknown = self.dropped = 0


class TooMuchWaits(HeadwaterError):
    """A target has so many unfinished effects that one more is not taken."""


class ReactorTask:
    """Owns one reactor's effects of one (topic, partition). See `streams.partitions.worker.Task`."""

    def __init__(
        self,
        reactor: Reactor,
        topic: topics.Topic,
        partition: int,
        source: Log,
        *,
        codec: Codec,
        nudge: Callable[[], None],
        step: Step = lambda _: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.reactor = reactor
        self.topic = topic
        self.partition = partition
        self.ledger: Ledger | None = None
        self.restore_s = 0.0
        self.stats = Stats()
        self._log = source
        self._codec = codec
        self._records = Records(reactor, topic, partition, codec, now)
        self._nudge = nudge
        self._step = step
        self._now = now
        self._position = 0
        self._committed = -1
        self._transactions: Transactions | None = None
        self._calls: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self._ended: dict[str, _Ended] = {}
        self._sends: list[Send] = []
        self._changed: dict[str, None] = {}
        """Effects whose entries the next transaction writes."""
        self._suspended = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def position(self) -> int:
        """Offset of the next record that it wants."""
        return self._position

    async def assign(self) -> None:
        """Take over: fence, read the position, read the ledger to its end. See `PartitionTask.assign`."""
        name, partition = self.topic.name, self.partition
        self._step("assign.begin")
        self._suspended = False
        if self.ledger is None or await self._log.committed(name, partition) != self._committed:
            await self.discard()
            started = time.monotonic()
            self._transactions = await self._log.fence(name, partition, self._step)
            self._step("assign.fenced")
            committed = await self._log.committed(name, partition)
            first, end = await self._log.bounds(name, partition)
            require_in_log(name, partition, committed, first, end)
            self._committed = -1 if committed is None else committed
            begin = first if self.reactor.begins == "start" else end
            self._position = begin if committed is None else committed
            self.ledger = await self._restored()
            self.restore_s = time.monotonic() - started
        self._step("assign.ready")
        self._nudge()

    async def _restored(self) -> Ledger:
        name, prefix = self._records.ledger, self._records.key("")
        first, end = await self._log.bounds(name, self.partition)
        found: dict[bytes, Entry] = {}
        async for batch in self._log.read(name, self.partition, first, end):
            for record in batch:
                if record.key is None or not record.key.startswith(prefix):
                    continue  # of another topic that this reactor reads
                if record.value is None:
                    found.pop(record.key, None)
                else:
                    found[record.key] = decode(record.value)
        await self._codec.learn([entry.record for entry in found.values() if entry.record is not None])
        ledger = Ledger(self.reactor.concurrency)
        ledger.restore(found.values())
        for entry in found.values():
            if entry.state == "intended" and not self._is_ours(entry):
                error = OutcomeUnknown("the process that made the call ended before it wrote what came of it")
                self._ended[entry.id] = _Ended(entry.attempt, error, None)
        return ledger

    def _is_ours(self, entry: Entry) -> bool:
        """Whether this very call was made here, and goes on or has ended."""
        call, ended = self._calls.get(entry.id), self._ended.get(entry.id)
        attempts = {call[0] if call else None, ended.attempt if ended else None}
        return entry.attempt in attempts

    async def handle(self, records: Sequence[Record]) -> None:
        """Plan what records call for, in order, and commit."""
        await self._codec.learn(records)
        for record in records:
            if record.offset >= self._position:
                self._plan(record)
                self._position = record.offset + 1
        self._step("batch.planned")
        await self._turn()

    async def idle(self, position: int = 0) -> None:
        """Commit what came of calls, and make those that are due."""
        self._position = max(position, self._position)
        await self._turn()

    async def suspend(self) -> None:
        """Let calls that are about to end do so, and write down what came of them; begin none."""
        self._suspended = True
        if self._calls:
            await asyncio.wait([task for _, task in self._calls.values()], timeout=GRACE_S)
        if self.ledger is not None and self._ended:
            await self._turn()

    async def discard(self) -> None:
        """Forget what the log knows. Calls under way go on: nobody can take them back."""
        self.ledger = None
        self._sends, self._changed = [], {}
        self._wake_at(None)
        transactions, self._transactions = self._transactions, None
        if transactions is not None:
            await transactions.close()

    def _plan(self, record: Record) -> None:
        """Add the effects that a record calls for; one that cannot be read or planned is a dead letter."""
        try:
            decoded = self._codec.decode_record(record)
            addressed = decoded.envelope.replay_of
            if type(decoded.event) not in self.reactor.accepts or addressed not in (None, self.reactor.name):
                return
            effects = list(self.reactor.effects(decoded.event, decoded.envelope, record.timestamp))
            ids = [derived_id(*decoded.envelope.name, self.reactor.name, f.key) for f in effects]
        except Exception as error:  # noqa: BLE001 - foreign bytes, and the reactor's own code
            self._sends.append(self._records.letter(record, error))
            return
        self.stats.events += 1
        for id_, effect in zip(ids, effects, strict=True):
            self._add(id_, effect, record, decoded, again=addressed is not None)

    def _add(self, id_: str, effect: Effect, record: Record, decoded: Decoded, *, again: bool) -> None:
        """Plan an effect; one that is known is left as it is, but for a failed one that is replayed."""
        ledger = self.ledger
        assert ledger is not None
        known = ledger.entries.get(id_)
        if known is not None and not (again and known.state == "done" and known.outcome != "succeeded"):
            return
        calls = known.attempt if known is not None else 0
        entry = Entry(id_, "waiting", calls, self._now(), effect.target, effect, record, base=calls)
        self._changed[id_] = None
        if ledger.has_room(entry):
            ledger.plan(entry)
            return
        ledger.refuse(entry, self._now())
        error = TooMuchWaits(
            f"{entry.target}: too much waits for it already", hint="replay the dead letter once it answers"
        )
        self._complete(entry, record, decoded, error)

    async def _turn(self) -> None:
        """One transaction: what was planned, what came of calls, what is about to be called, the position."""
        ledger, transactions, now = self.ledger, self._transactions, self._now()
        assert ledger is not None and transactions is not None  # noqa: PT018
        ended = list(self._ended)
        try:
            for id_ in ended:
                self._settle(ledger.entries.get(id_), self._ended[id_], now)
            begun = [] if self._suspended else list(ledger.due(now))
            for entry in begun:
                self._changed[entry.id] = None
                self._sends.append(self._records.intended(entry, self._decoded(entry).envelope))
            self._changed.update(dict.fromkeys(ledger.forget(now)))
            entries = [self._records.entry(id_, ledger.entries.get(id_)) for id_ in self._changed]
            if entries or self._sends or self._position != self._committed:
                await transactions.commit([*entries, *self._sends], self._position)
        except BaseException:
            await self.discard()
            raise
        self._sends, self._changed = [], {}
        self._committed = self._position
        for id_ in ended:
            del self._ended[id_]
        self._step("effects.intended")
        for entry in begun:
            self._begin(entry)
        self._wake_at(ledger.next_due())

    def _begin(self, entry: Entry) -> None:
        assert entry.effect is not None
        decoded = self._decoded(entry)
        call = Call(entry.id, entry.effect, entry.attempt, decoded.event, decoded.envelope)
        self.stats.calls += 1
        task = asyncio.create_task(self._perform(call), name=f"{self.reactor.name} {entry.id}")
        self._calls[entry.id] = (entry.attempt, task)

    async def _perform(self, call: Call) -> None:
        began = time.perf_counter()
        said: Done | Exception
        try:
            async with asyncio.timeout(self.reactor.timeout_s) as limit:
                said = await self.reactor.perform(call)
        except Exception as error:  # noqa: BLE001 - judged by its class in `_settle`
            said = error
            if limit.expired():
                said = OutcomeUnknown(f"no end of the call within {self.reactor.timeout_s:g} s")
        self._step("effects.acted")
        if self._calls[call.id][0] == call.attempt:  # else another worker made a later one meanwhile
            del self._calls[call.id]
            self._ended[call.id] = _Ended(call.attempt, said, (time.perf_counter() - began) * 1000)
            self._nudge()

    def _settle(self, entry: Entry | None, ended: _Ended, now: float) -> None:
        """Note what came of a call."""
        ledger = self.ledger
        if ledger is None or entry is None or entry.state != "intended" or entry.attempt != ended.attempt:
            return  # somebody else has settled it, when the partition was his
        effect, record, said = entry.effect, entry.record, ended.said
        assert effect is not None and record is not None  # noqa: PT018
        decoded = self._decoded(entry)
        self._changed[entry.id] = None
        if isinstance(said, Done):
            ledger.finish(entry, "succeeded", now)
            self._result(entry, decoded, said)
            self.stats.succeeded += 1
            self._sends.append(
                self._records.completed(
                    entry, decoded.envelope, None, detail=said.detail, latency_ms=ended.latency_ms
                )
            )
            return
        calls, backoff, outcome = entry.attempt - entry.base, self.reactor.backoff, _outcome(said, effect)
        if outcome is not None or calls >= backoff.attempts:
            ledger.finish(entry, outcome or "failed", now)
            self._complete(entry, record, decoded, said, ended.latency_ms)
            return
        spread = int(derived_id(entry.id, entry.attempt)[:8], 16) / 0xFFFFFFFF
        asked_s = said.after_s if isinstance(said, NotActed) and said.after_s is not None else 0.0
        ledger.wait(entry, now + max(asked_s, backoff.after(calls, spread)), now)
        self.stats.deferred += 1
        self._sends.append(self._records.deferred(entry, decoded.envelope, said))

    def _complete(
        self,
        entry: Entry,
        record: Record,
        decoded: Decoded,
        error: Exception,
        latency_ms: float | None = None,
    ) -> None:
        """Say that an effect did not come about, or that nobody knows."""
        assert entry.outcome is not None
        setattr(self.stats, entry.outcome, getattr(self.stats, entry.outcome) + 1)
        self._sends.append(self._records.completed(entry, decoded.envelope, error, latency_ms=latency_ms))
        if entry.outcome != "dropped":
            self._sends.append(self._records.letter(record, error, entry))

    def _result(self, entry: Entry, decoded: Decoded, said: Done) -> None:
        """The events that a call gave. One that cannot be written is left out: the call did happen."""
        for number, event in enumerate(said.events):
            try:
                if type(event) not in self.reactor.emits:
                    raise TypeError(f"{type(event).__name__} is not declared in `emits`")
                self._sends.append(self._records.event(entry, event, decoded.envelope, number))
            except Exception:
                log.exception("reactor.bad_event", reactor=self.reactor.name, effect=entry.id)

    def _decoded(self, entry: Entry) -> Decoded:
        assert entry.record is not None
        return self._codec.decode_record(entry.record)

    def _wake_at(self, due: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            delay_s = max(0.0, due - self._now())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._nudge)


def _outcome(error: Exception, effect: Effect) -> Outcome | None:
    """What an effect comes to whose call ended so; None: it may be tried again."""
    if isinstance(error, NotWanted):
        return "dropped"
    if isinstance(error, OutcomeUnknown | OSError):
        return None if effect.idempotent else "unknown"
    return None if isinstance(error, HeadwaterError) and error.retriable else "failed"
