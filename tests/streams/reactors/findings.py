"""Findings in the log as folds write them: by transactions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from schemas import events as e
from schemas import topics
from schemas.codec import Codec
from schemas.envelope import Envelope, to_headers
from streams.partitions.kafka_log import KafkaLog
from streams.partitions.log import Send
from streams.settings import Settings
from streams.simulation import Crash


def finding(n: int, *, severity: e.Severity = "error", component: str | None = None) -> e.AnomalyDetected:
    """The n-th finding."""
    return e.AnomalyDetected(
        component=component or f"tool:t{n % 40}",
        metric="latency_ms",
        value=n,
        expected=0,
        score=0.9,
        threshold=0.5,
        severity=severity,
        detector="extreme",
        summary=f"finding {n}",
    )


class Findings:
    """Writes transactions; some are begun and never ended, as a dying fold's are. Each `writer` fences itself."""

    def __init__(self, settings: Settings, writer: int = 0) -> None:
        self._writer = writer
        self._log = KafkaLog(settings, "test-findings")
        self._codec = Codec()

    async def __aenter__(self) -> Self:
        await self._log.start()
        self._transactions = await self._log.fence(topics.SIGNALS.name, self._writer, lambda _: None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transactions.close()
        await self._log.close()

    async def write(self, events: Sequence[tuple[str, e.Event]], project: str = "default") -> None:
        """One transaction with these events, each with its id."""
        await self._transactions.commit(self._sends(events, project), 0)

    async def abort(self, events: Sequence[tuple[str, e.Event]]) -> None:
        """Write these and die; whoever comes next aborts it."""
        dying = await self._log.fence(topics.SIGNALS.name, self._writer, _die)
        with suppress(Crash):
            await dying.commit(self._sends(events, "default"), 0)
        await self._transactions.close()
        await dying.close()
        self._transactions = await self._log.fence(topics.SIGNALS.name, self._writer, lambda _: None)

    def _sends(self, events: Sequence[tuple[str, e.Event]], project: str) -> list[Send]:
        sends = []
        for id_, event in events:
            key = topics.key_of(event)
            envelope = Envelope(
                id=id_,
                source="headwater/folds/anomaly",
                type=type(event).__name__,
                time=1.7e9,
                project=project,
                correlation_id=f"run-{id_}",
            )
            topic = topics.topic_of(type(event)).name
            sends.append(
                Send(topic, f"{project}/{key}".encode(), self._codec.encode(event), to_headers(envelope))
            )
        return sends


def _die(step: str) -> None:
    if step == "commit.offsets":
        raise Crash
