"""confluent-kafka writes raw topics as it likes, and reads what folds write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import httpx
from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from schemas.catalog import event_types, topics
from schemas.codec import Codec
from schemas.envelope import Envelope, to_headers
from schemas.events import MetricReported
from streams.admin import declared
from streams.producing.partitioner import partition_for
from streams.producing.producer import Producer as Ours
from streams.settings import Settings
from tests.streams.foreign.conftest import events_of, eventually
from tests.streams.instances import until

USUAL = [10.0 + i * 7 % 3 for i in range(100)]
UNUSUAL = [500.0 + i % 5 for i in range(20)]
SERIES = USUAL + UNUSUAL
TOPIC = "agent.metrics"


def serializer(registry: SchemaRegistryClient, event: str) -> AvroSerializer:
    """As docs/events.md makes it."""
    made: AvroSerializer = AvroSerializer(
        registry,
        registry.get_latest_version(f"headwater.{event}").schema.schema_str,
        conf={
            "auto.register.schemas": False,
            "use.latest.version": True,
            "subject.name.strategy": record_subject_name_strategy,
        },
    )
    return made


def metric(component: str, value: float) -> dict[str, Any]:
    """All fields of a metric."""
    return {"component": component, "name": "latency_ms", "value": value, "unit": "ms", "agent_id": None}


def write(
    settings: Settings,
    registry: SchemaRegistryClient,
    component: str,
    records: Iterable[tuple[float, str | None, Any]],
) -> list[int]:
    """Write (value, key, headers) with librdkafka's default partitioner; returns the partitions."""
    serialize = serializer(registry, "MetricReported")
    topic = settings.named(TOPIC)
    context = SerializationContext(topic, MessageField.VALUE)
    producer = Producer({"bootstrap.servers": settings.bootstrap, "linger.ms": 5})
    partitions: list[Any] = []
    for value, key, headers in records:
        producer.produce(
            topic, serialize(metric(component, value), context), key, headers=headers,
            on_delivery=lambda error, message: partitions.append(-1 if error else message.partition()),
        )  # fmt: skip
    assert producer.flush(30) == 0
    return partitions


def key_of_another_partition() -> str:
    """A key that librdkafka (CRC32) puts elsewhere than murmur2 does, of two partitions."""
    import zlib

    return next(
        key
        for key in map("k{}".format, range(99))
        if zlib.crc32(key.encode()) % 2 != partition_for(key.encode(), 2)
    )


def outcome(http: httpx.Client, component: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the views say of a component, without its own name and what differs by nature."""
    until(lambda: eventually(http, f"/v1/components/{component}")["signals"] >= len(SERIES), 30)
    at = {"at_least": eventually(http, f"/v1/components/{component}")["position"]}
    anomalies = http.get("/v1/anomalies", params={"component": component} | at).json()["items"]
    found = eventually(http, f"/v1/components/{component}")

    def alike(value: Any) -> Any:
        if isinstance(value, dict):
            own = ("id", "position", "causation_id", "subject", "source", "partition", "offset", "key")
            return {k: alike(v) for k, v in value.items() if k not in own}
        if isinstance(value, list):
            return [alike(v) for v in value]
        return value.replace(component, "it") if isinstance(value, str) else value

    return alike(found), alike(anomalies)


async def test_another_partitioner_changes_nothing(
    settings: Settings, registry: SchemaRegistryClient, http: httpx.Client
) -> None:
    """The same series by our producer, and by librdkafka under a key that it puts elsewhere: the same findings."""
    began = time.time() - len(SERIES)

    def envelope(i: int, source: str) -> Envelope:
        return Envelope(id=f"{source}-{i}", source=source, type="MetricReported", time=began + i)

    async with Ours(settings, source="ours") as ours:
        await ours.emit_many(
            [
                ours.outgoing(MetricReported(**metric("tool:ours", value)), id=f"ours-{i}", time=began + i)
                for i, value in enumerate(SERIES)
            ]
        )
    key = key_of_another_partition()
    partitions = await asyncio.to_thread(
        write,
        settings,
        registry,
        "tool:theirs",
        [(value, key, dict(to_headers(envelope(i, "theirs")))) for i, value in enumerate(SERIES)],
    )
    assert set(partitions) == {1 - partition_for(key.encode(), 2)}
    theirs = await asyncio.to_thread(outcome, http, "tool:theirs")
    assert theirs[1], "no anomaly was found"
    assert theirs == await asyncio.to_thread(outcome, http, "tool:ours")


def test_no_key_and_no_headers(
    settings: Settings, registry: SchemaRegistryClient, http: httpx.Client
) -> None:
    """Records without anything but a value land anywhere, and count like others, once each."""
    partitions: list[int] = []
    for some in (SERIES[i : i + 5] for i in range(0, len(SERIES), 5)):  # it stays with one partition a batch
        partitions += write(settings, registry, "tool:bare", [(value, None, None) for value in some])
    assert set(partitions) == {0, 1}, "the sticky partitioner stayed with one"
    until(lambda: eventually(http, "/v1/components/tool:bare")["signals"] >= len(SERIES), 30)
    found = eventually(http, "/v1/components/tool:bare")
    assert found["signals"] == len(SERIES)
    until(lambda: http.get("/v1/anomalies", params={"component": "tool:bare"}).json()["items"], 30)
    bare = events_of(http, TOPIC, "tool:bare")
    assert {event["source"] for event in bare} == {f"kafka:{TOPIC}"}
    assert {event["project"] for event in bare} == {"default"}


def test_what_folds_write_is_read(
    settings: Settings, registry: SchemaRegistryClient, http: httpx.Client
) -> None:
    """Each committed record of every topic, those of transactions included, is decoded as by our codec."""
    write(settings, registry, "tool:read", [(value, "k", None) for value in SERIES])
    until(lambda: http.get("/v1/anomalies", params={"component": "tool:read"}).json()["items"], 30)
    bad = Producer({"bootstrap.servers": settings.bootstrap})
    bad.produce(settings.named(TOPIC), b"no Avro at all", "k")
    assert bad.flush(20) == 0
    until(lambda: http.get("/v1/dead-letters").json()["items"], 30)
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap,
            "group.id": settings.named("reader"),
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    specs = [spec for spec in declared(settings) if spec.name in topics()]
    consumer.subscribe([settings.named(spec.name) for spec in specs])
    decode, codec = AvroDeserializer(registry), Codec()
    kinds: set[str] = set()
    ends: set[tuple[str, int]] = set()
    while len(ends) < sum(spec.partitions for spec in specs):
        message: Any = consumer.poll(20)
        assert message is not None, f"only {len(ends)} partitions were read to their end"
        if message.error() is not None:
            ends.add((message.topic(), message.partition()))
            continue
        if message.value() == b"no Avro at all":
            continue
        got = decode(message.value(), SerializationContext(message.topic(), MessageField.VALUE))
        event = codec.decode(message.value())
        assert got == event.model_dump()
        kind = dict(message.headers() or {}).get("ce_type", type(event).__name__.encode()).decode()
        assert event_types()[kind] is type(event)
        kinds.add(kind)
    consumer.close()
    assert kinds >= {"MetricReported", "Signal", "AnomalyDetected", "DeadLetter"}
