"""Ids of a registry on a cluster: everybody writes and reads with them, or is refused."""

from __future__ import annotations

import asyncio
import copy
import json
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Producer as ConfluentProducer
from confluent_kafka.schema_registry import SchemaRegistryClient, record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from pydantic import SecretStr

from schemas import events as e
from schemas.codec import Record
from schemas.errors import ConfigurationError, RegistryUnavailable
from schemas.registry import load
from streams.admin import ensure_topics
from streams.authority.issued import issued_ids
from streams.authority.settle import settle
from streams.codec import codec_of
from streams.dead_letters import NotReplayable, replay
from streams.fleet.parts import HeadwaterCodec
from streams.keys import create as create_key
from streams.partitions.kafka_log import KafkaLog
from streams.producing.producer import Producer
from streams.runner import Runner
from streams.sdk import Headwater
from streams.settings import Settings
from streams.supervision.prepare import create, prepare
from streams.tail import Filters, Range, Shown, tail
from streams.views.follower import run as run_views
from streams.views.rebuild import rebuild
from tests.streams.authority.apicurio import Door
from tests.streams.gateway.serving import serving

METRIC = load().versions["headwater.MetricReported"][0].definition
NEWER = copy.deepcopy(METRIC)
NEWER["fields"].append({"name": "zone", "type": ["null", "string"], "default": None})
UNKNOWN = 2**31 - 5
PATIENCE_S = 60


@pytest.fixture
def settings(broker: Settings, door: Door, tmp_path: Path) -> Settings:
    """A namespace of its own on the shared broker, taken for a cluster; ids come from the registry."""
    return broker.model_copy(
        update={
            "data": tmp_path,
            "kafka": broker.bootstrap,
            "namespace": f"t{uuid.uuid4().hex[:8]}",
            "partitions": 1,
            "raw_partitions": 1,
            "registry": SecretStr(door.url),
        }
    )


@pytest.fixture
def other(apicurio: str) -> Iterator[Door]:
    """Another registry."""
    one = Door(apicurio)
    one.start()
    yield one
    one.shut()


def having(settings: Settings, door: Door | None) -> Settings:
    """The same instance with another authority."""
    return settings.model_copy(update={"registry": door and SecretStr(door.url)})


@asynccontextmanager
async def folding(settings: Settings) -> AsyncIterator[None]:
    """The folds at work."""
    stop = asyncio.Event()
    task = asyncio.create_task(Runner(settings).run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE_S)


async def found(settings: Settings, topic: str, count: int, **where: Any) -> list[Shown]:
    """The first records of a topic."""
    stop, shown = asyncio.Event(), []
    async with asyncio.timeout(PATIENCE_S):
        async for one in tail(settings, [topic], Filters(**where), Range(from_beginning=True), stop):
            shown.append(one)
            if len(shown) == count:
                stop.set()
    return shown


def ids(shown: list[Shown]) -> list[int]:
    """Schema ids as they stand in the records."""
    return [struct.unpack(">bI", one.record.value[:5])[1] for one in shown if one.record.value]


def metric(value: float) -> e.MetricReported:
    """An event."""
    return e.MetricReported(component="tool:x", name="latency_ms", value=value, unit="ms")


async def emit(settings: Settings, *values: float) -> None:
    """Write metrics as an agent does."""
    async with Headwater(settings) as hw:
        for value in values:
            await hw.emit(metric(value))


class Foreign:
    """Confluent's client: a producer that knows the registry and no code of ours."""

    def __init__(self, settings: Settings, door: Door) -> None:
        self.registry = SchemaRegistryClient({"url": door.address})
        self._topic = settings.named("agent.metrics")
        self._producer = ConfluentProducer({"bootstrap.servers": settings.bootstrap})

    def send(self, value: float, schema: dict[str, Any] = METRIC, **more: Any) -> None:
        """Write a metric; the schema has to be registered."""
        self.write(self.serialized(value, schema, **more))

    def serialized(self, value: float, schema: dict[str, Any] = METRIC, **more: Any) -> bytes | None:
        """A metric as Confluent's serializer writes it."""
        conf = {"auto.register.schemas": False, "subject.name.strategy": record_subject_name_strategy}
        serialize = AvroSerializer(self.registry, json.dumps(schema), conf=conf)
        fields = {"component": "tool:x", "name": "latency_ms", "value": value, "unit": "ms", "agent_id": None}
        context = SerializationContext(self._topic, MessageField.VALUE)
        return cast("bytes | None", serialize(fields | more, context))

    def write(self, value: bytes | None) -> None:
        """Write any bytes."""
        self._producer.produce(self._topic, value, b"default/tool:x")
        assert self._producer.flush(20) == 0


def register_newer(door: Door) -> int:
    """A newer producer's team registers the next version, past the door."""
    path = "/subjects/headwater.MetricReported/versions"
    answer = door.http.post(path, json={"schema": json.dumps(NEWER)})
    return int(answer.raise_for_status().json()["id"])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - it is asked of Kafka
            await asyncio.sleep(0.1)


def signals_of(shown: list[Shown]) -> list[float | None]:
    """Values of signals."""
    events = [one.decoded.event for one in shown if one.decoded is not None]
    return [event.value for event in events if isinstance(event, e.Signal)]


async def test_everybody_writes_and_reads_with_the_registrys_ids(settings: Settings, door: Door) -> None:
    """SDK, a foreign producer, folds, tail and a foreign consumer share the ids that the registry gave."""
    created, registered = await create(settings)
    assert len(registered) == len(load().by_id)
    assert created
    assert await create(settings) == ([], [])
    assert await prepare(settings) == []
    foreign = Foreign(settings, door)
    async with folding(settings):
        await emit(settings, 1.0)
        foreign.send(2.0)
        raw, signals = await found(settings, "agent.metrics", 2), await found(settings, "signals", 2)
    latest = {
        name: door.http.get(f"/subjects/headwater.{name}/versions/latest").json()["id"]
        for name in ("MetricReported", "Signal")
    }
    assert ids(raw) == [latest["MetricReported"]] * 2
    assert ids(signals) == [latest["Signal"]] * 2
    assert signals_of(signals) == [1.0, 2.0]
    decode = AvroDeserializer(foreign.registry)
    context = SerializationContext(settings.named("signals"), MessageField.VALUE)
    seen = [decode(one.record.value, context) for one in signals]
    assert [s["value"] for s in seen if isinstance(s, dict)] == [1.0, 2.0]


async def test_a_newer_producers_events_are_read_and_stay_readable(settings: Settings, door: Door) -> None:
    """A version registered while folds run is asked for once and remembered in the cluster.

    After that nobody needs the registry for it: who restores later knows what the first one knew.
    """
    await create(settings)
    foreign = Foreign(settings, door)
    async with folding(settings):
        await emit(settings, 1.0)
        await found(settings, "signals", 1)
        newer = register_newer(door)
        for value in (2.0, 3.0):
            foreign.send(value, NEWER, zone="eu")
        assert signals_of(await found(settings, "signals", 3)) == [1.0, 2.0, 3.0]
    learned = [i for i in await issued_ids(settings).load() if i.version == 0]
    assert [(i.subject, i.id, i.by) for i in learned] == [("headwater.MetricReported", newer, door.address)]
    assert learned[0].schema == NEWER
    path = f"/schemas/ids/{newer}"
    asked = door.seen["GET", path]
    door.hidden[path] = 1000
    async with folding(settings):
        foreign.write(struct.pack(">bI", 0, newer) + (await raw_body(settings)))
        assert len(await found(settings, "signals", 4)) == 4
    assert door.seen["GET", path] == asked
    assert (await codec_of(settings)).knows(newer)


async def raw_body(settings: Settings) -> bytes:
    """The Avro body of the last raw record."""
    value = (await found(settings, "agent.metrics", 3))[-1].record.value
    assert value is not None
    return value[5:]


async def test_an_unknown_id_is_asked_for_twice_and_stops_nothing(
    settings: Settings, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id that the registry does not know makes a dead letter, the same one again does without asking.

    What comes after it goes on, and a replay is refused as long as nobody knows the id.
    """
    monkeypatch.setattr("streams.codec._REFUSED_S", 3600.0)
    await create(settings)
    foreign, path = Foreign(settings, door), f"/schemas/ids/{UNKNOWN}"
    async with folding(settings):
        for _ in range(2):
            foreign.write(struct.pack(">bI", 0, UNKNOWN) + b"junk")
        await found(settings, "headwater.dead-letters", 2)
        foreign.write(struct.pack(">bI", 0, UNKNOWN) + b"more")
        await emit(settings, 1.0)
        assert len(await found(settings, "signals", 1)) == 1
        letters = await found(settings, "headwater.dead-letters", 3)
    for one in letters:
        assert one.decoded is not None
        assert isinstance(one.decoded.event, e.DeadLetter)
        assert one.decoded.event.error_message.startswith(f"unknown schema id {UNKNOWN}")
    assert door.seen["GET", path] == 2
    with pytest.raises(NotReplayable, match="still cannot be decoded"):
        await replay(settings, "agent.metrics", 0, 0)


@pytest.mark.prove
async def test_a_registry_that_is_late_is_believed_the_second_time(settings: Settings, door: Door) -> None:
    """A node that does not know a new id yet, and knows it a moment later: no dead letter."""
    await create(settings)
    newer = register_newer(door)
    door.hidden[f"/schemas/ids/{newer}"] = 1
    async with folding(settings):
        Foreign(settings, door).send(7.0, NEWER, zone="eu")
        assert signals_of(await found(settings, "signals", 1)) == [7.0]


async def test_a_letter_is_replayed_once_its_schema_is_known(
    settings: Settings, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered too late for a record: it became a dead letter, and a replay gives it back."""
    monkeypatch.setattr("streams.codec._REFUSED_S", 0.1)
    await create(settings)
    newer = register_newer(door)
    door.hidden[f"/schemas/ids/{newer}"] = 2
    async with folding(settings):
        Foreign(settings, door).send(7.0, NEWER, zone="eu")
        await found(settings, "headwater.dead-letters", 1)
        await replay(settings, "agent.metrics", 0, 0)
        assert signals_of(await found(settings, "signals", 1)) == [7.0]


async def test_folds_go_on_without_the_registry(settings: Settings, door: Door) -> None:
    """It goes away: known ids are folded on; a new one waits, unjudged, and is read when it is back."""
    await create(settings)
    foreign = Foreign(settings, door)
    async with Producer(settings) as producer, folding(settings):
        await producer.emit(metric(1.0))
        await found(settings, "signals", 1)
        codec = await codec_of(settings)
        register_newer(door)
        newer = foreign.serialized(3.0, NEWER, zone="eu")
        door.shut()
        await producer.emit(metric(2.0))
        await until(lambda: holds(settings, "signals", 2))
        foreign.write(newer)
        await until(lambda: holds(settings, "agent.metrics", 3))
        with pytest.raises(RegistryUnavailable):
            await codec.learn(await records(settings, "agent.metrics"))
        await asyncio.sleep(3)  # attempts of the partition
        assert not await holds(settings, "signals", 3)
        assert not await holds(settings, "headwater.dead-letters", 1)
        door.start()
        assert signals_of(await found(settings, "signals", 3)) == [1.0, 2.0, 3.0]


@pytest.mark.prove
async def test_a_new_password_ends_no_running_process(settings: Settings, door: Door) -> None:
    """What the registry refuses while folds run is no verdict on a record; who starts anew is refused."""
    await create(settings)
    foreign = Foreign(settings, door)
    register_newer(door)
    newer = foreign.serialized(2.0, NEWER, zone="eu")
    async with folding(settings):
        await emit(settings, 1.0)
        await found(settings, "signals", 1)
        door.password = "changed"
        foreign.write(newer)
        await asyncio.sleep(3)  # attempts of the partition
        assert not await holds(settings, "headwater.dead-letters", 1)
        with pytest.raises(ConfigurationError, match="refuses the credentials"):
            await codec_of(settings)
        door.password = None
        assert signals_of(await found(settings, "signals", 2)) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("committed", "door", r"given by the committed lock file; http.* gives it"),
        ("door", "committed", r"given by http.*; the committed lock file gives it"),
        ("door", "other", r"given by http.*; http.* gives it"),
    ],
)
async def test_another_authority_is_refused_before_anything_is_written(
    settings: Settings, door: Door, other: Door, before: str, after: str, sentence: str
) -> None:
    """Committed ids, then a registry's; the other way round; another registry: everybody is refused."""
    authorities = {"committed": None, "door": door, "other": other}
    was, now = having(settings, authorities[before]), having(settings, authorities[after])
    await create(was)
    await emit(was, 1.0)
    if now.registry is not None:  # it has all schemas: only the ids differ
        elsewhere = having(settings, authorities[after]).model_copy(update={"kafka": None})
        await settle(elsewhere)
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        await create(now)
    back = (
        "unset HEADWATER_REGISTRY" if before == "committed" else f"set HEADWATER_REGISTRY to {door.address}"
    )
    assert caught.value.hint.startswith(back)
    for attempt in (
        prepare(now),
        emit(now, 2.0),
        Runner(now).run(asyncio.Event()),
        found(now, "agent.metrics", 1),
        replay(now, "agent.metrics", 0, 0),
        rebuild(now, "components"),
        run_views(now, asyncio.Event()),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            await attempt
    assert len(await records(was, "agent.metrics")) == 1


async def test_the_wrong_producer_is_refused_at_its_first_event(settings: Settings) -> None:
    """One that was never started writes nothing either: the first event finds the ids wrong."""
    await create(settings)
    wrong = Producer(having(settings, None))
    with pytest.raises(ConfigurationError, match="do not fit the log"):
        await wrong.emit(metric(1.0))
    await wrong.stop()
    assert await records(settings, "agent.metrics") == []


@pytest.mark.prove
async def test_equal_ids_are_the_same_authority(settings: Settings) -> None:
    """A registry that gives the committed ids may take over, and hand back: no record would be read otherwise."""
    committed = having(settings, None)
    await create(committed)
    key = create_key(committed, "acme", ["produce"], "another instance")
    with serving(committed) as url:
        address = f"{url.replace('//', f'//me:{key}@')}/registry"
        door = settings.model_copy(update={"registry": SecretStr(address)})
        assert await create(door) == ([], [])
        await emit(door, 1.0)
    assert await create(committed) == ([], [])
    await emit(committed, 2.0)
    assert len(await found(committed, "agent.metrics", 2)) == 2


@pytest.mark.prove
async def test_a_later_version_is_added_to_the_memory(settings: Settings, door: Door) -> None:
    """Folds that know of more than the cluster remembers add it: the next wrong authority is caught by it."""
    await create(settings)
    empty = settings.model_copy(update={"namespace": f"{settings.namespace}b"})
    await ensure_topics(empty)
    assert await issued_ids(empty).load() == []
    async with folding(empty):
        await until(lambda: joined(empty))
    assert await issued_ids(empty).load() == await issued_ids(settings).load()


async def test_a_faust_app_of_ones_own_has_the_ids_too(settings: Settings, door: Door) -> None:
    """Our codec for Faust writes with the registry's ids, and reads what a newer producer writes."""
    await create(settings)
    codec = HeadwaterCodec(settings=settings)
    latest = door.http.get("/subjects/headwater.MetricReported/versions/latest").json()["id"]
    value = codec.dumps(metric(1.0))
    assert value[:5] == struct.pack(">bI", 0, latest)
    assert codec.clone().loads(value) == metric(1.0)
    register_newer(door)
    newer = Foreign(settings, door).serialized(2.0, NEWER, zone="eu")
    assert newer is not None
    assert codec.loads(newer) == metric(2.0)


async def records(settings: Settings, topic: str) -> list[Record]:
    """Committed records of partition 0, as they are: no registry is asked."""
    log = KafkaLog(settings, "looking")
    await log.start()
    try:
        return [r async for batch in log.read(topic, 0, *(await log.bounds(topic, 0))) for r in batch]
    finally:
        await log.close()


async def holds(settings: Settings, topic: str, count: int) -> bool:
    """Whether a topic has so many records."""
    return len(await records(settings, topic)) >= count


async def joined(settings: Settings) -> bool:
    """Whether folds have taken over the raw partition: they have said what they know."""
    return bool(await issued_ids(settings).load())
