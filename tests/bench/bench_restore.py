"""How many keys of plain state a second a worker takes over: fenced, read from Kafka, checked, in place.

A partition whose fold keeps a small record of each key is folded, saved and given up; then a new task
of it is assigned, as after another worker's death. States are loaded at a key's first event, so what
loading all of them at once would add is said beside. The peer reads the same changelog with librdkafka
and keeps its last values, unchecked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import uvloop
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from processors.fold import Fold, Output
from schemas import events as e
from schemas import topics
from schemas.codec import Codec
from schemas.envelope import Envelope, to_headers
from streams.admin import declared, ensure_topics
from streams.folding.task import PartitionTask
from streams.partitions.kafka_log import KafkaLog
from streams.runner import tune_garbage_collection
from streams.settings import Settings
from tests.bench.figures import figure, middle, say
from tests.bench.ground import Row, ground, preload

KEYS = 200_000
ROUNDS = 5
_SIGNALS = topics.SIGNALS.name
_BATCH = 2_000


class Seen(msgspec.Struct):
    """What is kept of a component."""

    events: int = 0
    last: float = 0.0
    mean: float = 0.0
    unit: str = ""


class Observed(Fold[Seen]):
    """Counts, and keeps a mean."""

    name = "observed"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = ()
    state = Seen

    def initial(self, key: str) -> Seen:
        return Seen()

    def on_event(self, state: Seen, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        state.events += 1
        state.last, state.unit = event.value or 0.0, event.unit
        state.mean += (state.last - state.mean) / state.events
        return ()


def run(keys: int = KEYS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Keys a second, medians of rounds."""
    with ground() as place:
        settings = place.settings("restore").model_copy(update={"partitions": 1})
        return uvloop.run(_run(settings, keys, rounds))


async def _run(settings: Settings, keys: int, rounds: int) -> dict[str, Any]:
    await ensure_topics(settings, declared(settings, [Observed()]))
    await asyncio.to_thread(preload, settings, _SIGNALS, _rows(keys))
    log = KafkaLog(settings)
    await log.start()
    await _save(log)
    say(f"{keys:,} keys are saved")
    tune_garbage_collection()
    taken, loaded, read = [], [], []
    for _ in range(rounds):
        read.append(await asyncio.to_thread(_plain_read, settings))
        task = _task(log)
        began = time.perf_counter()
        await task.assign()
        taken.append(time.perf_counter() - began)
        began = time.perf_counter()
        states = task.slots[0].unpacked()
        loaded.append(time.perf_counter() - began)
        if len(states) != keys:
            raise RuntimeError(f"{len(states)} of {keys} states came back")
        await task.discard()
        say(f"restored in {taken[-1]:.2f} s, loaded in {loaded[-1]:.2f}, plain read {read[-1]:.2f}")
    await log.close()
    return {
        "keys": keys,
        "restored": figure(keys / middle(taken), "keys/s", must=100_000, aim=300_000, least=True),
        "and_every_state_loaded": figure(
            keys / middle([a + b for a, b in zip(taken, loaded, strict=True)]), "keys/s"
        ),
        "plain_read_by_librdkafka": figure(keys / middle(read), "keys/s"),
    }


def _task(log: KafkaLog, interval_s: float = 1e9) -> PartitionTask:
    return PartitionTask(
        topics.SIGNALS,
        0,
        lambda: [Observed()],
        log,
        codec=Codec(),
        secret=b"bench",
        snapshot_interval_s=interval_s,
    )


async def _save(log: KafkaLog) -> None:
    """Fold everything, and save every state."""
    task = _task(log, 0.0)
    await task.assign()
    _, end = await log.bounds(_SIGNALS, 0)
    async for batch in log.read(_SIGNALS, 0, 0, end):
        for start in range(0, len(batch), _BATCH):
            await task.handle(batch[start : start + _BATCH])
    assert task.engine is not None
    while task.engine.slots[0].dirty:
        await task.idle()
    for _ in range(3):  # the marker comes after the last state
        await task.idle()
    await task.discard()


def _plain_read(settings: Settings) -> float:
    """Seconds in which librdkafka reads the changelog."""
    topic = settings.named(topics.changelog(_SIGNALS))
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap,
            "group.id": "bench-plain",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    began = time.perf_counter()
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    kept: dict[bytes | None, bytes | None] = {}
    while True:
        messages = consumer.consume(10_000, timeout=1.0)
        for message in messages:
            if message.error() is not None:  # the partition's end
                consumer.close()
                return time.perf_counter() - began
            kept[message.key()] = message.value()


def _rows(keys: int) -> Iterable[Row]:
    codec = Codec()
    for number in range(keys):
        component = f"tool:{number:06d}"
        event = e.Signal(component=component, kind="metric", name="load", value=number % 97, unit="ms")
        envelope = Envelope(id=f"{number:032x}", source="bench", type="Signal", time=1.79e9)
        yield f"default/{component}", codec.encode(event), to_headers(envelope)


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
