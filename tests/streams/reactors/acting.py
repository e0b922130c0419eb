"""A reactor whose target does as it is told, and one partition of findings over a log in memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import ClassVar

from schemas import events as e
from schemas import topics
from schemas.codec import Codec, Record
from schemas.envelope import Clock, Envelope, to_headers
from streams.partitions.memory_log import MemoryLog
from streams.reactors.reactor import Backoff, Call, Done, Effect, Reactor
from streams.reactors.records import decode
from streams.reactors.task import ReactorTask
from streams.simulation import Crash

CODEC = Codec()
ANOMALIES = topics.ANOMALIES.name
LEDGER = topics.ledger("actor")
EFFECTS = topics.EFFECTS.name


def finding(component: str = "tool:a", summary: str = "") -> e.AnomalyDetected:
    """An event to act on; its summary says what its effects are to be."""
    return e.AnomalyDetected(
        component=component,
        metric="m",
        value=1,
        expected=0,
        score=1,
        threshold=0.5,
        severity="error",
        detector="t",
        summary=summary,
    )


class Actor(Reactor):
    """Acts on each target that a finding's summary names, `target` or `target!` for an idempotent effect."""

    name = "actor"
    topics = (topics.ANOMALIES,)
    accepts = (e.AnomalyDetected,)
    emits = (e.ErrorReported,)
    begins = "start"
    timeout_s = 5.0
    backoff: ClassVar[Backoff] = Backoff(first_s=10, factor=2, longest_s=1000, attempts=3)

    def __init__(self) -> None:
        self.acted: Counter[str] = Counter()
        """Calls that did something, by idempotency key."""
        self.calls: list[Call] = []
        self.answers: dict[str, list[Done | Exception | asyncio.Event]] = {}
        """What a target's next calls come to; an Event: it hangs until that is set. Else it succeeds."""

    def effects(self, event: e.Event, envelope: Envelope, at: float) -> Iterable[Effect]:
        assert isinstance(event, e.AnomalyDetected)
        if event.summary == "raise":
            raise ValueError("cannot be planned")
        for number, target in enumerate(event.summary.split()):
            yield Effect(str(number), target.rstrip("!"), b"x", idempotent=target.endswith("!"))

    async def perform(self, call: Call) -> Done:
        self.calls.append(call)
        answers = self.answers.get(call.effect.target)
        answer = answers.pop(0) if answers else Done("ok")
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = Done("late")
        if isinstance(answer, Exception):
            raise answer
        self.acted[call.id] += 1
        return answer


class Rig:
    """A log whose clock the test moves, and tasks of one partition."""

    def __init__(self, reactor: Actor | None = None) -> None:
        self.reactor = reactor or Actor()
        names = (ANOMALIES, LEDGER, EFFECTS, topics.DEAD_LETTERS.name, topics.ERRORS.name)
        self.log = MemoryLog(dict.fromkeys(names, 1))
        self.steps: Counter[str] = Counter()
        self.crash_at: str | None = None
        self._made = 0

    def put(
        self,
        summary: str,
        *,
        id: str | None = None,
        clock: Clock = "live",
        time: float | None = None,
        replay_of: str | None = None,
    ) -> Record:
        """Append a finding."""
        self._made += 1
        envelope = Envelope(
            id=id or f"f{self._made}",
            source="headwater/folds/anomaly",
            type="AnomalyDetected",
            time=self.log.now if time is None else time,
            project="p",
            correlation_id="run-1",
            clock=clock,
            replay_of=replay_of,
        )
        return self.log.append(
            ANOMALIES, b"p/tool:a", CODEC.encode(finding(summary=summary)), to_headers(envelope), 0
        )

    def task(self, reactor: Reactor | None = None, nudge: Callable[[], None] = lambda: None) -> ReactorTask:
        """Another worker's task of this partition."""
        return ReactorTask(
            reactor or self.reactor,
            topics.ANOMALIES,
            0,
            self.log,
            codec=CODEC,
            nudge=nudge,
            step=self._step,
            now=lambda: self.log.now,
        )

    async def up(self, reactor: Reactor | None = None) -> ReactorTask:
        """Another worker's task that has taken over."""
        task = self.task(reactor)
        await task.assign()
        return task

    async def drain(self, task: ReactorTask) -> None:
        """Give the task all records, and turns until no call is about to end."""
        if records := self.log.records(ANOMALIES, 0, task.position):
            await task.handle(records)
        await self.turns(task)

    async def turns(self, task: ReactorTask, seconds: float = 0.0) -> None:
        """Let the clock run, and let calls end and be written."""
        self.log.now += seconds
        for _ in range(6):
            await task.idle()
            for _ in range(5):
                await asyncio.sleep(0)
        await task.idle()

    def _step(self, name: str) -> None:
        self.steps[name] += 1
        if self.crash_at == name:
            self.crash_at = None
            raise Crash

    def said(self) -> list[tuple[str, str, int]]:
        """Every effect event: (type or outcome, target, attempt), in order."""
        found = []
        for record in self.log.records(EFFECTS, 0):
            event = CODEC.decode(record.value)
            assert isinstance(event, e.EffectIntended | e.EffectDeferred | e.EffectCompleted)
            what = event.outcome if isinstance(event, e.EffectCompleted) else type(event).__name__[6:].lower()
            found.append((what, event.target, event.attempt))
        return found

    def letters(self) -> list[e.DeadLetter]:
        """Every dead letter."""
        found = [CODEC.decode(r.value) for r in self.log.records(topics.DEAD_LETTERS.name, 0)]
        return [letter for letter in found if isinstance(letter, e.DeadLetter)]

    def ledger(self) -> dict[str, str]:
        """State by target, as the log has it; targets are to be unique."""
        last: dict[bytes, bytes | None] = {}
        for record in self.log.records(LEDGER, 0):
            last[record.key or b""] = record.value
        entries = [decode(value) for value in last.values() if value is not None]
        return {entry.target: entry.outcome or entry.state for entry in entries}
