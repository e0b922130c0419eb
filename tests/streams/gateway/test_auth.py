"""Who comes in: what a refused key is told, and that each use can be laid to the key that it was made with."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog

from schemas.codec import Codec
from schemas.envelope import producer_key
from schemas.topics import WEBHOOKS
from streams.gateway.app import create_app
from streams.keys import Quota, admin_key, create, list_keys, revoke, rotate
from streams.keys.uses import last_uses
from streams.producing.outgoing import Position
from streams.settings import Settings
from streams.supervision.metrics import REGISTRY
from streams.tail import Filters, Range, tail
from tests.streams.gateway.conftest import Count
from tests.streams.gateway.test_produce import metric, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")


def made(settings: Settings, name: str, *scopes: str, **options: Any) -> tuple[str, str]:
    """A new key of project acme, and its id."""
    key = create(settings, "acme", scopes, name, **options)
    return key, key.split("_")[1]


def bearer(key: str) -> dict[str, str]:
    """The header of a call with this key."""
    return {"Authorization": f"Bearer {key}"}


def counted(reason: str) -> float:
    """How many requests were refused for this reason so far."""
    return REGISTRY.get_sample_value("headwater_key_refusals_total", {"reason": reason}) or 0.0


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """What is logged meanwhile."""
    with structlog.testing.capture_logs() as found:
        yield found


def access(lines: list[Any]) -> dict[str, Any]:
    """The last line of the access log."""
    found: dict[str, Any] = [entry for entry in lines if entry["event"] == "http.request"][-1]
    return found


async def test_an_expired_key_says_so(http: httpx.AsyncClient, settings: Settings, lines: list[Any]) -> None:
    """401 with its end, in the challenge too; the log and the metrics know it from an unknown one."""
    key, id_ = made(settings, "brief", "read", expires=time.time() + 0.05)
    await asyncio.sleep(0.06)
    before = counted("expired")
    answer = await http.get("/v1/runs", headers=bearer(key))
    assert answer.status_code == 401
    assert re.search(r"this API key expired at 20\d\d-\S+Z;", answer.json()["detail"])
    assert 'error_description="this API key expired at 20' in answer.headers["WWW-Authenticate"]
    assert counted("expired") == before + 1
    line = access(lines)
    assert (line["refused"], line["key_id"], line["status"]) == ("expired", id_, 401)
    assert line["log_level"] == "warning"


async def test_a_rotated_key_in_a_running_gateway(http: httpx.AsyncClient, settings: Settings) -> None:
    """Both secrets work from the next request on; without overlap the old one is told that it was replaced."""
    old, id_ = made(settings, "rotated", "read", "produce")
    assert (await http.post("/v1/events", json=metric(), headers=bearer(old))).status_code == 200
    new, _ = rotate(settings, id_, 60)
    for key in (old, new):
        assert (await http.post("/v1/events", json=metric(), headers=bearer(key))).status_code == 200
    newest, _ = rotate(settings, id_, 0)
    for key in (old, new):
        answer = await http.post("/v1/events", json=metric(), headers=bearer(key))
        assert answer.status_code == 401
        assert "replaced by another, and expired at" in answer.json()["detail"]
    assert (await http.post("/v1/events", json=metric(), headers=bearer(newest))).status_code == 200


@pytest.mark.parametrize(
    ("header", "reason"),
    [(None, "missing"), ("Bearer ", "missing"), ("Bearer nonsense", "unknown"), ("Basic !", "missing")],
)
async def test_what_is_no_key(
    http: httpx.AsyncClient, lines: list[Any], header: str | None, reason: str
) -> None:
    """401, counted by its reason, logged without a key's id."""
    before = counted(reason)
    answer = await http.get("/v1/runs", headers={"Authorization": header} if header else {})
    assert answer.status_code == 401
    assert counted(reason) == before + 1
    assert (access(lines)["refused"], access(lines)["key_id"]) == (reason, None)


async def test_a_guess_is_laid_to_the_key_that_it_claims(
    http: httpx.AsyncClient, settings: Settings, lines: list[Any]
) -> None:
    """A known id with a wrong secret: the log has the id, nobody the secret."""
    key, id_ = made(settings, "guessed", "read")
    wrong = key[:-3] + "xyz"
    answer = await http.get("/v1/runs", headers=bearer(wrong))
    assert answer.status_code == 401
    assert access(lines)["key_id"] == id_
    assert "xyz" not in json.dumps(lines, default=str)
    revoke(settings, id_)
    await http.get("/v1/runs", headers=bearer(key))
    assert access(lines)["refused"] == "unknown"
    assert access(lines)["key_id"] is None
    assert key.split("_", 2)[2] not in json.dumps(lines, default=str)


async def test_what_a_key_lacks_is_logged_and_counted(
    http: httpx.AsyncClient, settings: Settings, written: Count, lines: list[Any]
) -> None:
    """A missing scope and another's project, for a whole request and for one item of a list."""
    reader, reader_id = made(settings, "reads", "read")
    scope, project = counted("scope"), counted("project")
    http.headers.update(bearer(reader))
    await refused(http, written, 403, json=metric())
    line = access(lines)
    assert (line["refused"], line["key"], line["key_id"]) == ("scope", "reads", reader_id)
    assert (await http.get("/v1/runs", params={"project": "globex"})).status_code == 403
    assert access(lines)["refused"] == "project"
    writer, writer_id = made(settings, "writes", "produce")
    http.headers.update(bearer(writer))
    mixed = await http.post("/v1/events", json=[metric(project="globex"), metric(project="globex"), metric()])
    assert mixed.status_code == 207
    assert (access(lines)["refused"], access(lines)["key_id"]) == ("project", writer_id)
    assert (await http.get("/v1/runs")).status_code == 403
    assert counted("scope") == scope + 2
    assert counted("project") == project + 2, "a request counts once"


async def test_a_key_for_one_topic(http: httpx.AsyncClient, settings: Settings, written: Count) -> None:
    """It writes there and nowhere else; other items of a list are refused, each with the scope it lacks."""
    key, _ = made(settings, "metrics only", "produce:agent.metrics", "produce:agent.errors")
    http.headers.update(bearer(key))
    before = await written()
    message = {"type": "MessagePosted", "data": {"agent_id": "a", "role": "user", "content": "x"}}
    answer = await http.post("/v1/events", json=[metric(), message, metric()])
    assert answer.status_code == 207
    assert await written() == before + 2
    body = answer.json()
    assert [i["status"] for i in body["items"]] == ["accepted", "refused", "accepted"]
    problem = body["items"][1]["problem"]
    assert (problem["status"], problem["instance"]) == (403, "/v1/events#/1")
    assert "lacks the scope produce:agent.messages" in problem["detail"]
    assert "agent.errors, agent.metrics" in problem["detail"]
    whole = await refused(http, written, 403, json=message)
    assert "produce:agent.messages" in whole["detail"]
    secret = message | {"data": {"agent_id": 7}}
    assert "agent_id" not in str(await refused(http, written, 403, json=secret)), "it is not even checked"
    assert (await http.get("/v1/runs")).status_code == 403


async def test_the_log_says_which_key_wrote_an_event(http: httpx.AsyncClient, settings: Settings) -> None:
    """The record carries the key's id; one who posts cannot say another; `tail` gives it out."""
    key, id_ = made(settings, "writer", "produce")
    told = []
    for secret in (key, admin_key(settings)):
        answer = await http.post("/v1/events", json=metric(id=f"by-{secret[:6]}"), headers=bearer(secret))
        told += answer.json()["items"]
    forged = await http.post("/v1/events", json=metric(producerkey="other"), headers=bearer(key))
    assert forged.status_code == 422
    found = {}
    places = {Position(t["topic"], t["partition"], t["offset"]): t["id"] for t in told}
    async for shown in tail(settings, ["agent.metrics"], Filters(), Range(follow=False), asyncio.Event()):
        record = shown.record
        place = Position(record.topic, record.partition, record.offset)
        if place in places:
            found[place] = producer_key(record.headers)
    assert list(found.values()) != []
    assert {places[place]: by for place, by in found.items()} == {
        told[0]["id"]: id_,
        told[1]["id"]: "admin",
    }


async def test_a_changed_webhook_is_laid_to_its_key_and_counts(
    http: httpx.AsyncClient, settings: Settings
) -> None:
    """The event of a change carries the key's id, and is one of those that its quota allows."""
    key, id_ = made(settings, "operator", "admin", "read", quota=Quota(0.1, 1))
    wanted = {"url": "https://example.com/hook", "description": id_}
    statuses = []
    for _ in range(4):
        answer = await http.post("/v1/webhooks", json=wanted, headers=bearer(key))
        statuses.append(answer.status_code)
    assert statuses[0] == 201
    assert statuses[-1] == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 10
    written = [
        producer_key(shown.record.headers)
        async for shown in tail(settings, [WEBHOOKS.name], Filters(), Range(follow=False), asyncio.Event())
        if shown.decoded is not None and getattr(shown.decoded.event, "description", "") == id_
    ]
    assert written == [id_] * statuses.count(201)


async def test_uses_are_written_when_the_gateway_stops(settings: Settings) -> None:
    """The last use of a key, with its door; a refused one is none; keys that were not used have none."""
    key, id_ = made(settings, "used", "read")
    _, idle = made(settings, "idle", "read")
    app = create_app(settings, Codec())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
        await client.get("/registry/subjects", headers=bearer(key))
        await client.get("/v1/runs/some-run", headers=bearer(key))
        await client.get("/v1/runs", headers=bearer(key[:-3] + "xyz"))
        assert id_ not in last_uses(settings)
    uses = last_uses(settings)
    assert uses[id_].door == "GET /v1/runs/{run_id:path}"
    assert abs(uses[id_].at - time.time()) < 60
    assert idle not in uses
    assert set(uses) <= {k.id for k in list_keys(settings)}
