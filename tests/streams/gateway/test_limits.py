"""Quotas at the door: what is over them is refused whole, and who waits as he is told gets his rate."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import structlog
from fastapi import FastAPI

from schemas.codec import Codec
from streams.gateway import body
from streams.gateway.app import create_app
from streams.keys import Quota, create, limit, list_keys
from streams.keys.quotas import remove_quota, set_quota
from streams.settings import Settings
from tests.streams.gateway.conftest import Count
from tests.streams.gateway.test_auth import bearer, counted
from tests.streams.gateway.test_produce import metric, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def client(http: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose key a test sets with `use`."""
    yield http


def use(client: httpx.AsyncClient, settings: Settings, name: str, quota: Quota, project: str = "acme") -> str:
    """Go on with a new key that has this quota; returns its id."""
    client.headers.update(bearer(create(settings, project, ["produce"], name, quota=quota)))
    return client.headers["Authorization"].split("_")[1]


async def test_over_the_quota_nothing_is_written(
    client: httpx.AsyncClient, settings: Settings, written: Count
) -> None:
    """A list that goes over is taken whole; the next request is refused whole, and told how long to wait."""
    id_ = use(client, settings, "events", Quota(10, 100))
    before = await written()
    answer = await client.post("/v1/events", json=[metric() for _ in range(400)])
    assert answer.status_code == 200
    assert answer.headers["RateLimit-Policy"].startswith('"key-events";q=100;w=10, "key-bytes";q=')
    assert re.match(r'"key-events";r=0;t=(2\d|30), ', answer.headers["RateLimit"])
    assert await written() == before + 400
    quota = counted("quota")
    with structlog.testing.capture_logs() as lines:
        problem = await refused(client, written, 429, json=[metric(), metric()])
    assert problem["type"] == "urn:headwater:problem:quota-exceeded"
    assert problem["instance"] == "/v1/events"
    assert "10 events a second" in problem["detail"]
    answer = await client.post("/v1/events", json=metric())
    assert answer.status_code == 429
    wait_s = int(answer.headers["Retry-After"])
    assert 1 < wait_s <= 30
    assert re.match(r'"key-events";r=0;t=\d+, ', answer.headers["RateLimit"])
    assert counted("quota") == quota + 2
    assert (lines[-1]["refused"], lines[-1]["key_id"]) == ("quota", id_)


async def test_bytes_are_limited_as_well(
    client: httpx.AsyncClient, settings: Settings, written: Count
) -> None:
    """Few and large events go over a quota of bytes."""
    use(client, settings, "bytes", Quota(bytes_per_second=100))
    large = {"type": "MessagePosted", "data": {"agent_id": "a", "role": "user", "content": "x" * 9_000}}
    assert (await client.post("/v1/events", json=large)).status_code == 200
    problem = await refused(client, written, 429, json=large)
    assert "100 bytes a second" in problem["detail"]


async def test_what_is_malformed_counts(client: httpx.AsyncClient, settings: Settings) -> None:
    """A client in a loop with a body that is no JSON is slowed as well; bad items count as good ones."""
    use(client, settings, "malformed", Quota(0.1, 2))
    statuses = [(await client.post("/v1/events", content=b"{")).status_code for _ in range(4)]
    assert statuses[:3] == [400, 400, 400]
    assert statuses[3] == 429
    use(client, settings, "bad items", Quota(0.1, 2))
    answer = await client.post("/v1/events", json=[metric("x"), metric("y"), metric("z"), metric()])
    assert answer.status_code == 207
    assert (await client.post("/v1/events", json=metric())).status_code == 429


async def test_a_quota_set_while_it_runs(client: httpx.AsyncClient, settings: Settings) -> None:
    """`keys limit` and `quotas set` hold from the next request on, without a restart."""
    id_ = use(client, settings, "changing", Quota(0.1, 1))
    await client.post("/v1/events", json=[metric(), metric(), metric()])
    assert (await client.post("/v1/events", json=metric())).status_code == 429
    limit(settings, id_, Quota(1_000))
    assert (await client.post("/v1/events", json=metric())).status_code == 200
    set_quota(settings, "acme", Quota(0.1, 1))
    try:
        keys = len([k for k in list_keys(settings) if k.project == "acme"])
        await client.post("/v1/events", json=[metric() for _ in range(20 + keys)])
        answer = await client.post("/v1/events", json=metric())
        assert answer.status_code == 429
        assert "this project" in answer.json()["detail"]
    finally:
        remove_quota(settings, "acme")
    assert (await client.post("/v1/events", json=metric())).status_code == 200


async def test_the_administrator_is_told_of_no_limit(admin: httpx.AsyncClient) -> None:
    """His key has none."""
    answer = await admin.post("/v1/events", json=metric())
    assert answer.status_code == 200
    assert not {"ratelimit", "ratelimit-policy"} & {name.lower() for name in answer.headers}


@pytest.mark.parametrize(("size", "tasks"), [pytest.param(40, 1, marks=pytest.mark.prove), (20, 4)])
async def test_who_waits_as_told_gets_his_rate(
    client: httpx.AsyncClient, settings: Settings, size: int, tasks: int
) -> None:
    """Clients of one key send as fast as they can, and after a 429 wait Retry-After: its rate to 5 %.

    Counted from the first refusal to the last, ten seconds later or more: the bucket is empty at both.
    """
    rate = 100.0
    use(client, settings, f"steady {size} {tasks}", Quota(rate, 2 * rate))
    accepted: list[float] = []
    refused: list[float] = []

    async def send() -> None:
        while not refused or refused[-1] - refused[0] < 10:
            answer = await client.post("/v1/events", json=[metric(i) for i in range(size)])
            if answer.status_code == 429:
                refused.append(time.monotonic())
                await asyncio.sleep(int(answer.headers["Retry-After"]))
            else:
                assert answer.status_code == 200
                accepted.append(time.monotonic())

    await asyncio.gather(*(send() for _ in range(tasks)))
    began, end = refused[0], max(refused)
    counted = size * sum(began <= at < end for at in accepted)
    assert counted / (end - began) == pytest.approx(rate, rel=0.05)


async def test_small_steps_over_the_quota_are_slowed_not_refused(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    """Where the debt lasts no longer than a moment the request waits for it: one by one at the rate, no 429."""
    use(client, settings, "one by one", Quota(5, 5))
    accepted = []
    for _ in range(41):
        assert (await client.post("/v1/events", json=metric())).status_code == 200
        accepted.append(time.monotonic())
    since = accepted[10]  # by then the burst is used up
    assert 30 / (accepted[40] - since) == pytest.approx(5, rel=0.05)


async def test_a_stalled_body_lets_go(
    app: FastAPI, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that says how much it will send, and does not, is answered 408: others of its key go on."""
    monkeypatch.setattr(body, "STALLED_S", 0.3)
    key = create(settings, "acme", ["produce"], "stalled")
    headers = bearer(key)

    async def stalling() -> Any:
        yield b"["
        await asyncio.sleep(1)
        yield b"]"

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as client:
        stalled = [asyncio.create_task(client.post("/v1/events", content=stalling())) for _ in range(3)]
        await asyncio.sleep(0.1)
        answer = await client.post("/v1/events", json=metric())
        assert answer.status_code == 200
        for each in await asyncio.gather(*stalled):
            assert each.status_code == 408
            assert "nothing for 0.3 s" in each.json()["detail"]


async def test_a_default_for_all_keys(settings: Settings) -> None:
    """HEADWATER_QUOTA_EVENTS_PER_SECOND limits each key that has no quota of its own."""
    app = create_app(settings.model_copy(update={"quota_events_per_second": 0.4}), Codec())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
        client.headers.update(bearer(create(settings, "acme", ["produce"], "default")))
        answer = await client.post("/v1/events", json=[metric() for _ in range(11)])
        assert answer.headers["RateLimit-Policy"].startswith('"key-events";q=2;w=5')
        assert (await client.post("/v1/events", json=metric())).status_code == 429
