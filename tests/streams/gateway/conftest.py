"""The application without a socket, on a real broker; one for all tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from fastapi import FastAPI

from schemas.codec import Codec
from schemas.topics import RAW
from streams.gateway.app import create_app
from streams.kafka import client_options
from streams.keys import admin_key
from streams.settings import Settings

Count = Callable[[], Awaitable[int]]


@pytest.fixture(scope="module")
def settings(broker: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings on the shared broker, with a data folder of the module's own."""
    return broker.model_copy(
        update={"data": tmp_path_factory.mktemp("gateway"), "kafka": broker.bootstrap, "database": None}
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application, started."""
    app = create_app(settings, Codec())
    async with app.router.lifespan_context(app):
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=30) as client:
        yield client


@pytest.fixture
def admin(http: httpx.AsyncClient, settings: Settings) -> httpx.AsyncClient:
    """The same client with the administrator's key."""
    http.headers["Authorization"] = f"Bearer {admin_key(settings)}"
    return http


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def written(settings: Settings) -> AsyncIterator[Count]:
    """Counts the records in all raw topics."""
    consumer = AIOKafkaConsumer(**client_options(settings))
    await consumer.start()
    places = [
        TopicPartition(settings.named(topic.name), p) for topic in RAW for p in range(settings.raw_partitions)
    ]

    async def count() -> int:
        return sum((await consumer.end_offsets(places)).values())

    yield count
    await consumer.stop()
