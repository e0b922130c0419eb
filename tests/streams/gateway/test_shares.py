"""What one key has under way at the door leaves room for others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from streams.gateway import produce
from streams.gateway.auth import Guard
from streams.gateway.correlation import Correlation
from streams.gateway.quotas import Quotas
from streams.gateway.shares import RECORD_BYTES
from streams.keys import Keyring, Quota, create
from streams.keys.uses import Uses
from streams.producing.producer import MAX_UNACKNOWLEDGED_BYTES, Producer
from streams.settings import Settings
from tests.streams.gateway.test_auth import bearer
from tests.streams.gateway.test_produce import metric

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Door(NamedTuple):
    """The route of producing, with its producer in sight."""

    http: httpx.AsyncClient
    producer: Producer


@pytest_asyncio.fixture(loop_scope="module")
async def door(settings: Settings) -> AsyncIterator[Door]:
    """A door of its own on the broker."""
    keyring = Keyring(settings)
    app = FastAPI()
    app.add_middleware(Correlation)
    async with Producer(settings, source="http", deadline_s=30) as producer:
        guard = Guard(keyring, Uses(settings))
        app.include_router(produce.routes(producer, guard, Quotas(settings, keyring)))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=120) as http:
            yield Door(http, producer)


async def test_a_key_has_no_more_than_its_share_on_the_way_to_kafka(settings: Settings, door: Door) -> None:
    """Lists that would fill the producer's budget are written 2 MiB at a time; another key's event comes between."""
    loud = bearer(create(settings, "acme", ["produce"], "loud", quota=Quota(0, None, 0)))
    quiet = bearer(create(settings, "acme", ["produce"], "quiet"))
    content = "x" * 4_000
    message = {"type": "MessagePosted", "data": {"agent_id": "a", "role": "user", "content": content}}
    lists = 12
    assert lists * 800 * len(content) > MAX_UNACKNOWLEDGED_BYTES
    most, begun = 0, asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, door.producer.unacknowledged_bytes)
            if most:
                begun.set()
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    flood = [
        asyncio.create_task(door.http.post("/v1/events", json=[message] * 800, headers=loud))
        for _ in range(lists)
    ]
    await begun.wait()
    answer = await door.http.post("/v1/events", json=metric(), headers=quiet)
    assert answer.status_code == 200
    assert sum(task.done() for task in flood) < lists / 2
    answers = await asyncio.gather(*flood)
    watching.cancel()
    assert [a.json()["accepted"] for a in answers] == [800] * lists
    assert RECORD_BYTES / 2 < most <= RECORD_BYTES + 10_000, "its share, and the other key's event"
    assert door.producer.unacknowledged_bytes == 0


async def test_bodies_of_one_key_wait_for_each_other_alone(settings: Settings, door: Door) -> None:
    """A key whose uploads do not come holds its own share of bodies; another key's are read."""
    stuck = bearer(create(settings, "acme", ["produce"], "stuck"))
    free = bearer(create(settings, "acme", ["produce"], "free"))
    end = asyncio.Event()

    async def late() -> AsyncIterator[bytes]:
        await end.wait()
        yield b"[]"

    uploads = [
        asyncio.create_task(door.http.post("/v1/events", content=late(), headers=stuck)) for _ in range(2)
    ]
    await asyncio.sleep(0.1)
    waiting = asyncio.create_task(door.http.post("/v1/events", json=metric(), headers=stuck))
    answer = await door.http.post("/v1/events", json=metric(), headers=free)
    assert answer.status_code == 200
    assert not waiting.done(), "two bodies of unknown length are all that this key may hold"
    end.set()
    assert (await waiting).status_code == 200
    for upload in uploads:
        with pytest.raises(produce.BadBody):
            await upload
