"""A worker on a real broker: what it fetches, how much waits, and in which order it is folded."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from processors.fold import Fold, Output
from schemas import events as e
from schemas import topics
from schemas.codec import Codec
from schemas.envelope import Envelope, to_headers
from streams.admin import declared, ensure_topics
from streams.partitions.worker import BATCH, Pump
from streams.runner import Runner
from streams.settings import Settings

BACKLOG = 40_000


class Count(msgspec.Struct):
    """How many events a key had."""

    events: int = 0


class Watch(Fold[Count]):
    """Keeps the order in which it was given events, which no real fold may."""

    name = "watch"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = ()
    state = Count
    seen: list[tuple[str, float]]

    def initial(self, key: str) -> Count:
        return Count()

    def on_event(self, state: Count, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        state.events += 1
        self.seen.append((event.component, event.value or 0.0))
        return ()


async def test_a_backlog_waits_in_the_consumer_and_holds_up_nobody(
    broker: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40,000 records few are unpacked at a time; they are folded in order, each once; a neighbour is not delayed."""
    settings = Settings(
        data=tmp_path, port=broker.port, kafka=broker.bootstrap, namespace=f"w{uuid.uuid4().hex[:8]}", partitions=2
    )  # fmt: skip
    watch = Watch()
    watch.seen = []
    await ensure_topics(settings, declared(settings, [watch]))
    codec = Codec()

    # Idempotent: else a first batch that the new topic's leader refuses is sent again after the second.
    producer = Producer({"bootstrap.servers": settings.bootstrap, "enable.idempotence": True})
    for partition, component, count in ((0, "busy", BACKLOG), (1, "quiet", 1)):
        for n in range(count):
            event = e.Signal(component=component, kind="metric", name="n", value=float(n))
            envelope = Envelope(id=f"{component}-{n}", source="t", type="Signal", time=1.7e9 + n)
            topic = settings.named("signals")
            key, value = f"default/{component}", codec.encode(event)
            headers: Any = to_headers(envelope)
            producer.produce(topic, value, key, partition=partition, headers=headers)
    assert producer.flush(30) == 0
    waiting: list[int] = []
    offer = Pump.offer

    def noting(pump: Pump[Any], records: Any) -> None:
        offer(pump, records)
        waiting.append(len(pump._inbox))

    monkeypatch.setattr(Pump, "offer", noting)
    stop = asyncio.Event()
    running = asyncio.create_task(Runner(settings, lambda: [watch]).run(stop))
    async with asyncio.timeout(60):
        while len(watch.seen) < BACKLOG + 1:  # noqa: ASYNC110 - folds tell nobody
            await asyncio.sleep(0.05)
    stop.set()
    await running
    assert [value for component, value in watch.seen if component == "busy"] == list(
        map(float, range(BACKLOG))
    )
    assert watch.seen.index(("quiet", 0.0)) < BACKLOG / 2
    assert max(waiting) < 2 * BATCH
