"""SIGKILL of the broker under streams: whatever they go through, nothing is missing and nothing comes twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.errors import BrokerUnavailable
from streams.admin import ensure_topics
from streams.broker import Broker
from streams.following import feed as feed_module
from streams.kafka import client_options
from streams.keys import admin_key
from streams.producing.producer import Producer
from streams.settings import Settings
from tests.conftest import free_base_port
from tests.streams.gateway.following import Client, message, records
from tests.streams.gateway.serving import serving
from tests.streams.gateway.test_following import assert_in_order, place

KILLS = 2
BATCH = 25


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker that may be killed."""
    broker = Broker(Settings(data=tmp_path, port=free_base_port(), partitions=2, raw_partitions=2))
    await broker.start()
    await ensure_topics(broker.settings)
    yield broker
    await broker.stop()


def reached(broker: Broker) -> Settings:
    """Settings for clients, whatever port they serve on themselves."""
    return broker.settings.model_copy(update={"kafka": broker.settings.bootstrap})


async def plainly(settings: Settings, stop: asyncio.Event, acknowledged: list[str]) -> None:
    """Write events until told to stop; notes what was acknowledged."""
    async with Producer(settings, deadline_s=60) as producer:
        while not stop.is_set():
            items = [producer.outgoing(message(n), source="plain") for n in range(BATCH)]
            await producer.emit_many(items)
            acknowledged += [item.envelope.id for item in items]
            await asyncio.sleep(0.02)


async def in_transactions(
    settings: Settings, stop: asyncio.Event, committed: list[str], aborted: list[str]
) -> None:
    """Write events in transactions until told to stop, every third of which is aborted; notes what is known of them."""
    number = 0
    while not stop.is_set():
        producer = AIOKafkaProducer(
            **client_options(settings),
            transactional_id="t",
            transaction_timeout_ms=5_000,
            request_timeout_ms=5_000,
        )
        with suppress(KafkaError, TimeoutError, OSError):
            async with asyncio.timeout(30), producer:
                while not stop.is_set():
                    number += 1
                    prepared = records([message(n, "t") for n in range(BATCH)])
                    await producer.begin_transaction()
                    for p in prepared:
                        await producer.send(settings.named(p.topic), p.value, p.key, headers=p.headers)
                    if number % 3:
                        await producer.commit_transaction()
                        committed += [p.id for p in prepared]
                    else:
                        await producer.abort_transaction()
                        aborted += [p.id for p in prepared]


async def restless(client: Client, stop: asyncio.Event, chance: random.Random) -> None:
    """Follow, and leave again and again, in the middle of anything."""
    while not stop.is_set():
        with suppress(TimeoutError):
            async with client:
                await asyncio.wait_for(stop.wait(), chance.random() * 2)


@pytest.mark.timeout(240)
async def test_killed_brokers_cost_no_event(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that stay open, and one that comes and goes, get what a reading of the whole log gives in the end."""
    monkeypatch.setattr(feed_module, "READY_S", 30.0)
    settings = reached(broker)
    key = admin_key(settings)
    acknowledged: list[str] = []
    committed: list[str] = []
    aborted: list[str] = []
    stop = asyncio.Event()
    with serving(settings) as url:
        client, leaver = Client(url, key), Client(url, key, since="2000-01-01")
        async with client:
            tasks = [
                asyncio.create_task(plainly(settings, stop, acknowledged)),
                asyncio.create_task(in_transactions(settings, stop, committed, aborted)),
                asyncio.create_task(restless(leaver, stop, random.Random(3))),
            ]
            for _ in range(KILLS):
                await asyncio.sleep(4)
                before = len(client.events)
                broker.kill()
                await broker.stop()
                await asyncio.sleep(1)
                await broker.start()
                await client.until(lambda: len(client.events) > before + 4 * BATCH, 60)  # noqa: B023 - waited for here
            stop.set()
            await asyncio.gather(*tasks)
            async with Client(url, key, since="2000-01-01") as whole, leaver:
                known = set(acknowledged) | set(committed)
                await whole.until(lambda: known <= {event["id"] for event in whole.events}, 30)
                await asyncio.sleep(6)  # until the broker has aborted what was left open
                for each in (client, leaver):
                    await each.until(lambda c=each: len(c.events) >= len(whole.events))  # type: ignore[misc]
    assert client.connections == 1, client.reasons
    assert leaver.connections > 3
    for each in (client, leaver):
        assert sorted(map(place, each.events)) == sorted(map(place, whole.events))
        assert_in_order(each.events)
    assert not set(aborted) & {event["id"] for event in whole.events}
    assert len(acknowledged) > 10 * BATCH
    assert min(len(committed), len(aborted)) > 5 * BATCH


async def test_a_stream_waits_for_kafka(broker: Broker) -> None:
    """While Kafka is away a stream stays open, and no new one begins: 503. Then both go on."""
    settings = reached(broker)
    key = admin_key(settings)
    with serving(settings) as url:
        async with Client(url, key) as client:
            broker.kill()
            await broker.stop()
            async with Client(url, key) as second:  # the reader was at work: it begins where that stands
                await asyncio.sleep(2)
                await broker.start()
                with suppress(BrokerUnavailable):
                    async with Producer(settings) as producer:
                        await producer.emit(message(1))
                await client.count(1, 30)
                await second.count(1, 30)
            assert (client.connections, client.reasons) == (1, [])
    broker.kill()
    with serving(settings) as url:
        async with Client(url, key) as refused:
            assert refused.refused is not None
            assert refused.refused.status_code == 503
            assert "Retry-After" in refused.refused.headers
            assert "cannot be read from Kafka" in refused.refused.json()["detail"]
