"""Confluent's own client reads and writes our topics through /registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka import Producer as ConfluentProducer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

from schemas import events as e
from schemas.codec import Codec, to_headers
from schemas.envelope import Envelope
from schemas.registry import load
from schemas.topics import TOPICS, ticks, topic_of, versions
from streams.keys import admin_key, create
from streams.producing.producer import Position
from streams.settings import Settings
from tests.streams.gateway.serving import serving
from tests.streams.test_producer import read

EXAMPLES: dict[type[e.Event], e.Event] = {
    type(event): event
    for event in (
        e.AgentAnnounced(agent_id="a", role="r", version="1", capabilities=["x"], models=["m"]),
        e.AgentHeartbeat(agent_id="a", load=0.5, version="1"),
        e.AgentRetired(agent_id="a", reason="done"),
        e.MessagePosted(agent_id="a", role="user", content="héllo", recipient_id="b"),
        e.ToolCallRequested(agent_id="a", tool_name="t", call_id="c", arguments='{"q": 1}'),
        e.ToolCallCompleted(agent_id="a", tool_name="t", call_id="c", result="r", latency_ms=1.5),
        e.ToolCallFailed(agent_id="a", tool_name="t", call_id="c", error_type="Timeout"),
        e.LlmCallRequested(agent_id="a", call_id="c", provider_name="p", request_model="m"),
        e.LlmCallCompleted(
            agent_id="a", call_id="c", provider_name="p", request_model="m", input_tokens=2**62, cost_usd=0.01
        ),
        e.LlmCallFailed(agent_id="a", call_id="c", provider_name="p", request_model="m", error_type="E"),
        e.ErrorReported(component="tool:t", error_type="E", severity="critical"),
        e.MetricReported(component="tool:t", name="latency_ms", value=-0.5, unit="ms"),
        e.RunStarted(run_id="r", agent_id="a", task="t"),
        e.RunFinished(run_id="r", agent_id="a", outcome="success", score=1.0),
        e.FaultInjected(component="tool:t", fault="slow", factor=3.0, duration_s=60),
        e.Signal(component="tool:t", kind="call", name="latency_ms", value=1.5, failed=False),
        e.AnomalyDetected(
            component="tool:t",
            metric="latency_ms",
            value=9.0,
            expected=1.0,
            score=0.9,
            threshold=0.5,
            severity="warning",
            detector="d",
        ),
        e.TaskRequested(task_id="1", agent_id="a", task="t", sender_id="b"),
        e.TaskAssigned(task_id="1", agent_id="a", kind="task", content="t"),
        e.EffectIntended(reactor="r", effect_id="e", target="t", attempt=1, idempotent=True),
        e.EffectDeferred(reactor="r", effect_id="e", target="t", attempt=1, until=2.5, error_type="E"),
        e.EffectCompleted(reactor="r", effect_id="e", target="t", attempt=1, outcome="succeeded"),
        e.WebhookRegistered(webhook_id="w", url="https://a.test/", types=["DeadLetter"], severity="error"),
        e.WebhookTested(test_id="t", webhook_id="w"),
        e.WebhookRemoved(webhook_id="w"),
        e.FoldCutOver(fold="f", cut_over_id="c", phase="decided", from_version=1, to_version=2, by="b"),
        e.FoldReady(fold="f", cut_over_id="c", version=2, topic="signals", partition=0, error="raised"),
        e.FoldSwitched(
            fold="f",
            cut_over_id="c",
            from_version=1,
            version=2,
            topic="signals",
            partition=0,
            position=3,
            clock=2.5,
            state="refold",
        ),
        e.Tick(topic="signals", partition=0, after_offset=1, at=2.5),
        e.DeadLetter(
            topic="signals", partition=0, offset=1, error_type="E", value=b"\x00", headers={"h": b"1"}
        ),
    )
}


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    """Address of a running `serve`."""
    with serving(settings) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str, settings: Settings) -> SchemaRegistryClient:
    """Confluent's client, with a project's key as password in the URL."""
    key = create(settings, "acme", ["produce"], "foreign tool")
    host = urlsplit(url).netloc
    return SchemaRegistryClient({"url": f"http://user:{key}@{host}/registry"})


@pytest.fixture
def http(url: str, settings: Settings) -> Iterator[httpx.Client]:
    """A plain client with a key."""
    with httpx.Client(
        base_url=f"{url}/registry", headers={"Authorization": f"Bearer {admin_key(settings)}"}
    ) as c:
        yield c


def refusal(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Confluent's error body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/vnd.schemaregistry.v1+json"
    body: dict[str, Any] = answer.json()
    assert set(body) == {"error_code", "message"}
    assert body["message"]
    return body


def test_every_event_type_has_an_example() -> None:
    """A new event type has to be decoded by a foreign client here as well."""
    assert set(EXAMPLES) == set(e.EVENT_TYPES)


def test_a_foreign_client_decodes_every_topic(client: SchemaRegistryClient, settings: Settings) -> None:
    """What stands in each topic, one event of each type, is decoded by Confluent's AvroDeserializer."""
    codec = Codec()
    producer = ConfluentProducer({"bootstrap.servers": settings.bootstrap})
    delivered: dict[str, Any] = {}
    tops = {event: topic_of(event).name for topic in TOPICS for event in topic.events}
    tops[e.Tick] = ticks("signals")
    tops |= dict.fromkeys((e.FoldReady, e.FoldSwitched), versions("signals"))
    assert tops.keys() == EXAMPLES.keys()

    def placed(_: object, message: Any) -> None:
        delivered[message.key().decode()] = message

    for event_type, topic in tops.items():
        event = EXAMPLES[event_type]
        envelope = Envelope(id="1", source="test", type=event_type.__name__, time=0.0)
        producer.produce(
            settings.named(topic),
            codec.encode(event),
            event_type.__name__.encode(),
            partition=0,
            headers=dict(to_headers(envelope)),
            on_delivery=placed,
        )
    assert producer.flush(20) == 0
    consumer = Consumer(
        {"bootstrap.servers": settings.bootstrap, "group.id": "foreign", "enable.auto.commit": False}
    )
    decode = AvroDeserializer(client)
    for event_type, topic in tops.items():
        at = delivered[event_type.__name__]
        consumer.assign([TopicPartition(at.topic(), at.partition(), at.offset())])
        message = consumer.poll(20)
        assert message is not None
        assert message.error() is None
        got = decode(message.value(), SerializationContext(topic, MessageField.VALUE))
        assert got == EXAMPLES[event_type].model_dump(), topic
    consumer.close()


async def test_a_foreign_client_writes(client: SchemaRegistryClient, settings: Settings) -> None:
    """Confluent's AvroSerializer with our schema writes a record that we read as the event."""
    serialize = AvroSerializer(
        client,
        conf={
            "auto.register.schemas": False,
            "use.latest.version": True,
            "subject.name.strategy": record_subject_name_strategy,
        },
        schema_str=client.get_latest_version("headwater.MetricReported").schema.schema_str,
    )
    event = EXAMPLES[e.MetricReported]
    topic = settings.named("agent.metrics")
    value = serialize(event.model_dump(), SerializationContext(topic, MessageField.VALUE))
    placed: list[Any] = []
    producer = ConfluentProducer({"bootstrap.servers": settings.bootstrap})
    producer.produce(topic, value, b"acme/k", on_delivery=lambda _, message: placed.append(message))
    assert producer.flush(20) == 0
    (got,) = await read(settings, [Position("agent.metrics", placed[0].partition(), placed[0].offset())])
    assert got.event == event
    assert got.envelope.source == "kafka:agent.metrics", "who says no source is named by the topic"


def test_the_whole_read_half(client: SchemaRegistryClient) -> None:
    """Confluent's client finds subjects, versions and ids, and each leads to the same schema."""
    registry = load()
    assert client.get_subjects() == sorted(registry.versions)
    for registered in registry.by_id.values():
        assert client.get_versions(registered.subject) == [
            v.version for v in registry.versions[registered.subject]
        ]
        found = client.get_version(registered.subject, registered.version)
        assert found.schema_id == registered.id
        assert json.loads(client.get_schema(registered.id).schema_str or "") == registered.definition
        assert client.lookup_schema(registered.subject, found.schema).schema_id == registered.id
    assert client.get_compatibility() == "BACKWARD"
    assert client.get_global_mode() == "READONLY"
    assert client.get_mode("headwater.Signal") == "READONLY"
    versions = client.get_schema_versions(1)
    assert [(v.subject, v.version) for v in versions] == [("headwater.AgentAnnounced", 1)]
    assert client.get_subjects_by_schema_id(1) == ["headwater.AgentAnnounced"]
    assert client.get_schema_types() == ["AVRO"]


def test_looking_up_minds_no_layout(http: httpx.Client) -> None:
    """A schema without documentation and in another order of attributes is still found."""
    definition = load().by_id[2].definition
    bare = {
        "fields": [{k: v for k, v in f.items() if k != "doc"} for f in definition["fields"]],
        "name": "headwater.AgentHeartbeat",
        "type": "record",
    }
    answer = http.post("/subjects/headwater.AgentHeartbeat", json={"schema": json.dumps(bare)})
    assert answer.json()["id"] == 2


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/schemas/ids/999", 404, 40403),
        ("/schemas/ids/x", 422, 422),
        ("/schemas/ids/99999999999999999999", 404, 40403),
        ("/subjects/nope/versions", 404, 40401),
        ("/subjects/nope/versions/latest", 404, 40401),
        ("/subjects/headwater.Signal/versions/99", 404, 40402),
        ("/subjects/headwater.Signal/versions/0", 422, 42202),
        ("/subjects/headwater.Signal/versions/x", 422, 42202),
        ("/mode/nope", 404, 40401),
        ("/unknown/path", 404, 404),
    ],
)
def test_unknown_things(http: httpx.Client, path: str, status: int, code: int) -> None:
    """Errors have Confluent's codes and form."""
    assert refusal(http.get(path), status)["error_code"] == code


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"hello", 400, 400),
        (b"{}", 422, 42201),
        (b'{"schema": 7}', 422, 42201),
        (b'{"schema": "nonsense"}', 422, 42201),
        (b'{"schema": "{\\"type\\": \\"record\\"}"}', 422, 42201),
        (b'{"schema": "\\"string\\"", "schemaType": "PROTOBUF"}', 422, 42201),
        (b'{"schema": "\\"string\\""}', 404, 40403),
        (b'{"schema": "' + b"[" * 100_000 + b'"}', 422, 42201),
        (b" " * 1_100_000, 413, 413),
    ],
)
def test_bad_lookups(http: httpx.Client, body: bytes, status: int, code: int) -> None:
    """What is no schema, or not ours, is refused with Confluent's codes."""
    assert refusal(http.post("/subjects/headwater.Signal", content=body), status)["error_code"] == code


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/subjects/headwater.Signal/versions"),
        ("DELETE", "/subjects/headwater.Signal"),
        ("DELETE", "/subjects/headwater.Signal/versions/1"),
        ("PUT", "/config"),
        ("PUT", "/mode/headwater.Signal"),
    ],
)
def test_nothing_can_be_written(http: httpx.Client, method: str, path: str) -> None:
    """Writing calls are refused, and say how schemas are registered."""
    body = refusal(http.request(method, path, json={}), 422)
    assert body["error_code"] == 42205
    assert "make schemas" in body["message"]


def test_registering_by_confluents_client_is_refused(client: SchemaRegistryClient) -> None:
    """The client raises our message."""
    schema = Schema('{"type": "record", "name": "New", "fields": []}', "AVRO")
    with pytest.raises(SchemaRegistryError, match="read-only mode"):
        client.register_schema("headwater.AgentAnnounced", schema)


def test_a_key_is_needed(url: str, settings: Settings) -> None:
    """Without a key, or with a wrong one, 401 in Confluent's form; basic's password and bearer both do."""
    key = create(settings, "acme", ["read"], "basic")
    for auth in (None, ("user", "wrong"), ("user", "")):
        answer = httpx.get(f"{url}/registry/subjects", auth=auth)
        assert refusal(answer, 401)["error_code"] == 40101
        assert "Basic" in answer.headers["WWW-Authenticate"]
    assert httpx.get(f"{url}/registry/subjects", auth=("anybody", key)).status_code == 200
    bearer = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{url}/registry/subjects", headers=bearer).status_code == 200
    for header in ("Basic", "Basic !", "Basic Zm9v"):
        refusal(httpx.get(f"{url}/registry/subjects", headers={"Authorization": header}), 401)
