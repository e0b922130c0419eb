"""One partition of `signals` over a log in memory, whose clocks only the test moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from processors.fold import Fold
from schemas import events as e
from schemas import topics
from schemas.codec import Codec, Record
from schemas.envelope import Clock, Envelope, Headers, to_headers
from streams.folding.engine import Engine
from streams.folding.snapshots import dump_state
from streams.folding.task import PartitionTask
from streams.partitions.memory_log import MemoryLog
from streams.simulation import Crash
from streams.versions.decisions import Decisions

CODEC = Codec()
SIGNALS = topics.SIGNALS.name
CHANGELOG = topics.changelog(SIGNALS)
TICKS = topics.ticks(SIGNALS)
NEVER, ALWAYS = 1e9, 0.0
"""Intervals of snapshots."""


def signal(value: float, component: str = "c") -> e.Signal:
    """An event of the keyed topic."""
    return e.Signal(component=component, kind="metric", name="m", value=value)


class Partition:
    """`folds` makes the folds; `interval_s` lies between rounds of snapshots."""

    def __init__(
        self, folds: Callable[[], Iterable[Fold[Any]]], *, interval_s: float = NEVER, secret: bytes = b"s"
    ) -> None:
        self.folds = folds
        self.interval_s = interval_s
        self.secret = secret
        names = [SIGNALS, CHANGELOG, TICKS, topics.ANOMALIES.name, topics.DEAD_LETTERS.name]
        self.log = MemoryLog(dict.fromkeys(names, 1))
        self.decisions = Decisions(self.log, CODEC)
        self.steps: Counter[str] = Counter()
        self.crash_at: tuple[str, BaseException] | None = None
        self.elapsed = 0.0
        self.per_look = 0.0
        """How far the clock of snapshots moves each time that somebody looks at it."""
        self._made = 0

    def put(
        self,
        value: float,
        component: str = "c",
        *,
        id: str | None = None,
        project: str = "default",
        source: str = "test",
        clock: Clock = "live",
        time: float | None = None,
        extra: Headers = (),
    ) -> Record:
        """Append a signal; by default with an id of its own and the log's time."""
        self._made += 1
        envelope = Envelope(
            id=id or f"e{self._made}",
            source=source,
            type="Signal",
            time=self.log.now if time is None else time,
            project=project,
            clock=clock,
            correlation_id="run-1",
        )
        headers = [*to_headers(envelope), *extra]
        return self.append(CODEC.encode(signal(value, component)), f"{project}/{component}".encode(), headers)

    def append(self, value: bytes | None, key: bytes | None = b"default/c", headers: Headers = ()) -> Record:
        """Append any bytes."""
        return self.log.append(SIGNALS, key, value, headers, 0)  # type: ignore[arg-type]  # Kafka has null keys

    def task(self) -> PartitionTask:
        """Another worker's task of this partition."""
        return PartitionTask(
            topics.SIGNALS,
            0,
            self.folds,
            self.log,
            codec=CODEC,
            secret=self.secret,
            step=self._step,
            now=lambda: self.log.now,
            monotonic=self._monotonic,
            snapshot_interval_s=self.interval_s,
            decisions=self.decisions,
            near=0,
        )

    async def up(self) -> PartitionTask:
        """Another worker's task, restored."""
        task = self.task()
        await task.assign()
        return task

    async def drain(self, task: PartitionTask, batch: int = 1_000_000) -> None:
        """Give the task all that there is, `batch` records at a time."""
        while records := self.log.records(SIGNALS, 0, task.position)[:batch]:
            await task.handle(records)

    def _monotonic(self) -> float:
        self.elapsed += self.per_look
        return self.elapsed

    def _step(self, name: str) -> None:
        self.steps[name] += 1
        if self.crash_at is not None and self.crash_at[0] == name:
            error, self.crash_at = self.crash_at[1], None
            raise error

    def crash(self, step: str, error: BaseException | None = None) -> None:
        """Die, or raise `error`, when `step` is next reached."""
        self.crash_at = (step, error or Crash())

    def outputs(self, topic: str = topics.ANOMALIES.name) -> list[tuple[bytes | None, bytes | None, Headers]]:
        """Committed records of a topic as bytes, in order."""
        return [(r.key, r.value, tuple(r.headers)) for r in self.log.records(topic, 0)]

    def found(self) -> list[tuple[str, float, float]]:
        """(detector, value, expected) of every committed output, in order."""
        decoded = [CODEC.decode(r.value) for r in self.log.records(topics.ANOMALIES.name, 0)]
        return [(d.detector, d.value, d.expected) for d in decoded if isinstance(d, e.AnomalyDetected)]

    def letters(self) -> list[e.DeadLetter]:
        """Committed dead letters, in order."""
        decoded = [CODEC.decode(r.value) for r in self.log.records(topics.DEAD_LETTERS.name, 0)]
        return [d for d in decoded if isinstance(d, e.DeadLetter)]

    def erase(self, topic: str) -> None:
        """Lose a topic's content."""
        self.log._entries[topic, 0] = []


def states(engine: Engine | None) -> dict[tuple[str, str], bytes]:
    """State by (fold, key), as bytes."""
    assert engine is not None
    return {
        (s.fold.name, key): dump_state(state) for s in engine.slots for key, state in s.unpacked().items()
    }
