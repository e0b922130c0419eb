"""POST /v1/events: what enters, what is refused, and what is answered."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from projections.position import decode
from schemas.codec import Codec
from schemas.envelope import format_time
from schemas.events import MetricReported
from streams.gateway.app import create_app
from streams.gateway.produce import MAX_ITEMS
from streams.keys import admin_key, create
from streams.producing.producer import Position
from streams.settings import Settings
from tests.conftest import free_base_port
from tests.streams.gateway.conftest import Count
from tests.streams.test_producer import read

pytestmark = pytest.mark.asyncio(loop_scope="module")


def metric(value: object = 12.5, **attributes: object) -> dict[str, Any]:
    """A metric as an item."""
    return {
        "type": "MetricReported",
        "data": {"component": "tool:search", "name": "latency_ms", "value": value},
        **attributes,
    }


async def refused(http: httpx.AsyncClient, written: Count, status: int, **request: Any) -> dict[str, Any]:
    """The problem with which a POST is refused; the log has not changed."""
    before = await written()
    answer = await http.post("/v1/events", **request)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    assert await written() == before, "something was written"
    return problem


async def test_one_event(admin: httpx.AsyncClient, settings: Settings) -> None:
    """An accepted event is in the log at the position that is answered, with what was said of it."""
    item = metric(
        id="e-1",
        source="shop",
        time="2026-01-02T03:04:05Z",
        subject="s",
        key="k",
        correlationid="run-1",
        causationid="cause",
        traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
        project="acme",
    )
    answer = await admin.post("/v1/events", json=item)
    assert answer.status_code == 200, answer.text
    (told,) = answer.json()["items"]
    assert (told["status"], told["id"], told["topic"], told["warnings"]) == (
        "accepted",
        "e-1",
        "agent.metrics",
        [],
    )
    assert decode(told["position"]) == {told["topic"]: {told["partition"]: told["offset"] + 1}}
    (got,) = await read(settings, [Position(told["topic"], told["partition"], told["offset"])])
    assert got.event == MetricReported(component="tool:search", name="latency_ms", value=12.5)
    assert got.key == "acme/k"
    e = got.envelope
    assert (e.id, e.source, e.project, e.subject) == ("e-1", "shop", "acme", "s")
    assert (e.correlation_id, e.causation_id) == ("run-1", "cause")
    assert format_time(e.time) == "2026-01-02T03:04:05.000000Z"
    assert e.traceparent == item["traceparent"]


async def test_what_is_not_said_is_filled_in(admin: httpx.AsyncClient, settings: Settings) -> None:
    """Without attributes: a UUIDv7, now, the event's own key, the default project, the request's ids."""
    trace = "c" * 32
    headers = {"X-Correlation-Id": "door-1", "traceparent": f"00-{trace}-{'d' * 16}-01"}
    before = time.time()
    answer = await admin.post("/v1/events", json=metric(), headers=headers)
    (told,) = answer.json()["items"]
    (got,) = await read(settings, [Position(told["topic"], told["partition"], told["offset"])])
    e = got.envelope
    assert got.key == "default/tool:search"
    assert (e.source, e.project, e.subject, e.correlation_id) == (
        "http",
        "default",
        "tool:search",
        "door-1",
    )
    assert before - 0.001 <= e.time <= time.time()
    assert e.id[14] == "7"
    assert e.traceparent is not None
    assert e.traceparent.startswith(f"00-{trace}-")
    assert e.traceparent != headers["traceparent"], "each event is a span of its own"
    assert answer.headers["X-Correlation-Id"] == "door-1"


async def test_many_events(admin: httpx.AsyncClient, settings: Settings) -> None:
    """A list is answered item by item in its order; the position of the whole covers each."""
    items = [metric(i, key=f"k{i}") for i in range(500)]
    answer = await admin.post("/v1/events", json=items)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["accepted"], body["refused"]) == (500, 0)
    assert [i["index"] for i in body["items"]] == list(range(500))
    whole = decode(body["position"])
    assert all(whole[i["topic"]][i["partition"]] > i["offset"] for i in body["items"])
    positions = [Position(i["topic"], i["partition"], i["offset"]) for i in body["items"][::100]]
    assert [g.event.value for g in await read(settings, positions)] == [0, 100, 200, 300, 400]  # type: ignore[attr-defined]


BAD_ITEMS: list[tuple[dict[str, Any], int, str, str]] = [
    (metric() | {"type": "MetricReport"}, 422, "body.type", "did you mean MetricReported"),
    (metric() | {"type": "Nonsense"}, 422, "body.type", "one of AgentAnnounced"),
    (metric() | {"type": "Signal"}, 422, "", "written by Headwater alone"),
    (metric() | {"type": "DeadLetter"}, 422, "", "written by Headwater alone"),
    (metric("12"), 422, "body.data.value", "valid number"),
    (metric(True), 422, "body.data.value", "valid number"),
    (metric(None), 422, "body.data.value", "valid number"),
    (metric("NaN"), 422, "body.data.value", "valid number"),
    ({"type": "MetricReported", "data": {"component": "c", "name": "n"}}, 422, "body.data.value", "required"),
    (metric() | {"data": {**metric()["data"], "vlaue": 1}}, 422, "body.data.vlaue", "not known"),
    (metric() | {"data": "text"}, 422, "body.data", "dictionary"),
    ({"data": {}}, 422, "body.type", "required"),
    ({"type": "MetricReported"}, 422, "body.data", "required"),
    (metric(corelationid="x"), 422, "body.corelationid", "did you mean correlationid"),
    (metric(id=""), 422, "body.id", "at least 1"),
    (metric(id=7), 422, "body.id", "valid string"),
    (metric(id="x" * 257), 422, "body.id", "at most 256"),
    (metric(key="a\x00b"), 422, "body.key", "pattern"),
    (metric(key="a\n"), 422, "body.key", "pattern"),
    (metric(time="yesterday"), 422, "body.time", "Invalid isoformat"),
    (metric(time="0001-01-01T00:00:00+14:00"), 422, "", "time"),
    (metric(traceparent="00-1-2-3"), 422, "body.traceparent", "does not match"),
    (metric(traceparent=f"00-{'a' * 32}-{'b' * 16}-01\n"), 422, "body.traceparent", "does not match"),
    (metric(project="a/b"), 422, "body.project", "does not match"),
    (metric(specversion="0.3"), 422, "body.specversion", "1.0"),
    (metric(data_base64="AA=="), 422, "body.data_base64", "not known"),
    (
        {"type": "MessagePosted", "data": {"agent_id": "a", "role": "robot", "content": ""}},
        422,
        "body.data.role",
        "'system'",
    ),
    (
        {"type": "MessagePosted", "data": {"agent_id": "a", "role": "user", "content": "x" * 1_048_577}},
        413,
        "",
        "the limit is 1,048,576",
    ),
    (
        {
            "type": "ToolCallRequested",
            "data": {"agent_id": "é" * 256, "tool_name": "t", "call_id": "c" * 257},
        },
        422,
        "body.data.call_id",
        "at most 256",
    ),
]


@pytest.mark.parametrize(("item", "status", "where", "what"), BAD_ITEMS)
async def test_bad_items(
    admin: httpx.AsyncClient, written: Count, item: dict[str, Any], status: int, where: str, what: str
) -> None:
    """A bad event is refused with what is wrong and where, and changes nothing."""
    problem = await refused(admin, written, status, json=item)
    assert what in json.dumps(problem, ensure_ascii=False)
    if where:
        assert where in [flaw["where"] for flaw in problem["errors"]]
        assert where.removeprefix("body.") in problem["detail"] or where == "body.type"


BAD_BODIES: list[tuple[bytes, str, int, str]] = [
    (b"", "application/json", 400, "not JSON"),
    (b"hello", "application/json", 400, "not JSON"),
    (b'{"type": "MetricReported", "data": {"value": NaN}}', "application/json", 400, "NaN"),
    (b'{"type": "MetricReported", "data": {"value": -Infinity}}', "application/json", 400, "Infinity"),
    (b'{"type": "MetricReported", "data": {"value": 1e999}}', "application/json", 400, "infinity"),
    (b'{"a": "\xff"}', "application/json", 400, "UTF-8"),
    (b'{"a": "\\ud800"}', "application/json", 400, "surrogate"),
    (b"[" * 100_000, "application/json", 400, "depth"),
    (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "application/json", 400, "depth"),
    (b"[]", "application/json", 400, "list is empty"),
    (b"7", "application/json", 400, "not an event"),
    (b"null", "application/json", 400, "not an event"),
    (b'"text"', "application/json", 400, "not an event"),
    (b"[]", "application/cloudevents+json", 400, "not an event"),
    (b"{}", "application/cloudevents-batch+json", 400, "no batch"),
    (b"<event/>", "application/xml", 415, "application/xml"),
    (b"type=x", "application/x-www-form-urlencoded", 415, "application/json"),
    (b"[" + b"1," * MAX_ITEMS + b"1]", "application/json", 413, "10,001 events"),
    (b" " * (16 * 1024 * 1024 + 1), "application/json", 413, "16,777,216 bytes"),
]


@pytest.mark.parametrize(("body", "kind", "status", "what"), BAD_BODIES)
async def test_bad_bodies(
    admin: httpx.AsyncClient, written: Count, body: bytes, kind: str, status: int, what: str
) -> None:
    """A body that is no event or list of events is refused whole, with what is wrong with it."""
    problem = await refused(admin, written, status, content=body, headers={"Content-Type": kind})
    assert what in problem["detail"] + problem["hint"]


async def test_a_body_without_a_length_is_bounded_too(admin: httpx.AsyncClient, written: Count) -> None:
    """A chunked body that never ends is cut off at the limit."""

    async def endless() -> Any:
        while True:
            yield b" " * 65_536

    problem = await refused(admin, written, 413, content=endless())
    assert "16,777,216" in problem["detail"]


async def test_good_items_enter_beside_bad_ones(admin: httpx.AsyncClient, written: Count) -> None:
    """In a mixed list each item is answered for itself, the good ones are written: status 207."""
    before = await written()
    items = [metric(1, id="good-1"), metric("x", id="bad"), 7, metric(2, id="good-2")]
    answer = await admin.post("/v1/events", json=items)
    assert answer.status_code == 207
    body = answer.json()
    assert [i["status"] for i in body["items"]] == ["accepted", "refused", "refused", "accepted"]
    assert [i["id"] for i in body["items"]] == ["good-1", "bad", None, "good-2"]
    problem = body["items"][1]["problem"]
    assert problem["instance"] == "/v1/events#/1"
    assert problem["errors"][0]["where"] == "body.1.data.value"
    assert await written() == before + 2


async def test_a_list_without_one_good_item(admin: httpx.AsyncClient, written: Count) -> None:
    """The status is that of all refusals, or 422 where they differ; each item says why."""
    problem = await refused(admin, written, 422, json=[metric("x"), metric() | {"type": "Nope"}])
    assert problem["type"] == "urn:headwater:problem:nothing-accepted"
    assert [i["problem"]["status"] for i in problem["items"]] == [422, 422]
    large = {"type": "MessagePosted", "data": {"agent_id": "a", "role": "user", "content": "x" * 1_048_577}}
    await refused(admin, written, 413, json=[large, large])
    await refused(admin, written, 422, json=[large, metric("x")])


async def test_the_same_id_twice(admin: httpx.AsyncClient, settings: Settings) -> None:
    """A repeated POST is accepted again under the same name, which folds and views count once."""
    answers = [await admin.post("/v1/events", json=metric(id="again", key="k")) for _ in range(2)]
    told = [a.json()["items"][0] for a in answers]
    got = await read(settings, [Position(t["topic"], t["partition"], t["offset"]) for t in told])
    first, second = (d.envelope for d in got)
    assert told[0]["offset"] < told[1]["offset"]
    assert (first.project, first.source, first.id) == (second.project, second.source, second.id)


async def test_a_time_far_ahead_is_flagged(admin: httpx.AsyncClient, settings: Settings) -> None:
    """It is accepted and kept, and the answer says how it will count; a replay's time is its own."""
    far = format_time(time.time() + 86_400)
    (told,) = (await admin.post("/v1/events", json=metric(time=far))).json()["items"]
    assert told["status"] == "accepted"
    assert "86,400 s ahead" in told["warnings"][0]
    (got,) = await read(settings, [Position(told["topic"], told["partition"], told["offset"])])
    assert format_time(got.envelope.time) == far
    near = format_time(time.time() + 60)
    for item in (metric(time=near), metric(time=far, clock="replay", project="replayed")):
        assert (await admin.post("/v1/events", json=item)).json()["items"][0]["warnings"] == []


async def test_cloudevents_from_their_sdk(admin: httpx.AsyncClient, settings: Settings) -> None:
    """What the CloudEvents SDK sends in structured mode is taken as it is, alone and as a batch."""
    attributes = {
        "id": "ce-1",
        "source": "/shop",
        "type": "MetricReported",
        "specversion": "1.0",
        "datacontenttype": "application/json",
        "correlationid": "run-9",
    }
    message = to_structured(CloudEvent(attributes, metric()["data"]), JSONFormat())
    assert message.headers["content-type"].startswith("application/cloudevents+json")
    answer = await admin.post("/v1/events", content=message.body, headers=dict(message.headers))
    assert answer.status_code == 200, answer.text
    batch = b"[" + message.body + b"," + message.body + b"]"
    headers = {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}
    answer = await admin.post("/v1/events", content=batch, headers=headers)
    assert answer.json()["accepted"] == 2
    told = answer.json()["items"][0]
    (got,) = await read(settings, [Position(told["topic"], told["partition"], told["offset"])])
    assert (got.envelope.source, got.envelope.correlation_id) == ("/shop", "run-9")


async def test_a_project_key_writes_its_project(
    http: httpx.AsyncClient, settings: Settings, written: Count
) -> None:
    """A key's events belong to its project; naming another one is 403, for that item alone."""
    http.headers["Authorization"] = f"Bearer {create(settings, 'acme', ['produce'], 'n')}"
    (told,) = (await http.post("/v1/events", json=metric())).json()["items"]
    (got,) = await read(settings, [Position(told["topic"], told["partition"], told["offset"])])
    assert got.envelope.project == "acme"
    assert (await http.post("/v1/events", json=metric(project="acme"))).status_code == 200
    problem = await refused(http, written, 403, json=metric(project="globex"))
    assert "'acme', not to 'globex'" in problem["detail"]
    mixed = await http.post("/v1/events", json=[metric(project="globex"), metric()])
    assert mixed.status_code == 207
    assert mixed.json()["items"][0]["problem"]["status"] == 403


async def test_a_key_without_the_right_to_produce(
    http: httpx.AsyncClient, settings: Settings, written: Count
) -> None:
    """403, and it says which scope is missing."""
    http.headers["Authorization"] = f"Bearer {create(settings, 'acme', ['read'], 'reader')}"
    problem = await refused(http, written, 403, json=metric())
    assert "produce" in problem["detail"]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic d3Jvbmc6d3Jvbmc=", "x"]
)
async def test_without_a_known_key(http: httpx.AsyncClient, written: Count, header: str | None) -> None:
    """401 with a challenge, before the body is looked at."""
    headers = {} if header is None else {"Authorization": header}
    problem = await refused(http, written, 401, content=b"hello", headers=headers)
    assert problem["title"] == "Unauthorized"
    answer = await http.post("/v1/events", content=b"hello", headers=headers)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_while_the_broker_is_away(tmp_path: Path) -> None:
    """503 with Retry-After once the deadline has passed, for one event and for many."""
    settings = Settings(data=tmp_path, port=free_base_port())
    app = create_app(settings, Codec())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {admin_key(settings)}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://x", headers=headers, timeout=20
        ) as http:
            for body in (metric(id="a"), [metric(id="a"), metric(id="b")]):
                answer = await http.post("/v1/events", json=body)
                assert answer.status_code == 503
                assert answer.headers["Retry-After"] == "1"
                assert "events not acknowledged" in answer.json()["detail"]
            assert [i["id"] for i in answer.json()["items"]] == ["a", "b"]


async def test_while_the_disk_is_full(tmp_path: Path) -> None:
    """507 before anything is sent, where the embedded log's disk has less than the reserve."""
    settings = Settings(data=tmp_path, port=free_base_port(), disk_reserve_bytes=2**60)
    app = create_app(settings, Codec())
    async with app.router.lifespan_context(app):
        headers = {"Authorization": f"Bearer {admin_key(settings)}"}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://x", headers=headers
        ) as http:
            answer = await http.post("/v1/events", json=metric())
    assert (answer.status_code, answer.headers["Retry-After"]) == (507, "10")
    assert "kept in reserve" in answer.json()["detail"]
