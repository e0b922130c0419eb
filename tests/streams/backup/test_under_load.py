"""Backups of a broker at work: each is a state that all goes on from as if nothing had happened."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from projections.catalog import views
from projections.store import Store
from schemas import events as e
from schemas import topics
from schemas.codec import Codec, Record
from schemas.envelope import Envelope, to_headers
from streams.admin import declared, ensure_topics
from streams.backup.restoring import restore
from streams.backup.taking import Taken, backup
from streams.broker import Broker
from streams.kafka import client_options, connect
from streams.partitions.kafka_log import KafkaLog
from streams.settings import Settings
from streams.views.follower import rebuild
from tests.conftest import free_base_port
from tests.streams.kill_worker import folds
from tests.streams.test_kills import Herd
from tests.streams.undisturbed import compare, inputs, lag, shown, views_have_read_it

Made = list[tuple[e.Event, Envelope]]
Place = tuple[str, int, int]
"""Topic, partition, offset."""
FIRST = 300
"""So many are acknowledged before the first backup: by then every process is at work."""
RAW = (topics.METRICS.name, topics.TOOL_CALLS.name)


class Load:
    """Writes inputs in order, and knows of each where it is once Kafka has acknowledged it."""

    def __init__(self, settings: Settings, made: Made) -> None:
        self.acknowledged: dict[Place, int] = {}
        """Index of the input that is there."""
        self.hurry = False
        """Whether to write what is left as fast as can be."""
        self._settings = settings
        self._made = made

    async def write(self, indexes: list[int], per_second: float) -> None:
        """Write those inputs."""
        codec = Codec()
        producer = AIOKafkaProducer(
            **client_options(self._settings), acks="all", enable_idempotence=True, linger_ms=5
        )
        await connect(self._settings, producer, 30)
        started = time.monotonic()
        try:
            for count, index in enumerate(indexes):
                event, envelope = self._made[index]
                sent = await producer.send(
                    topics.topic_of(type(event)).name,
                    codec.encode(event),
                    key=f"default/{topics.key_of(event)}".encode(),
                    headers=to_headers(envelope),
                )
                sent.add_done_callback(lambda done, index=index: self._note(done.result(), index))
                if not self.hurry:
                    await asyncio.sleep(max(0.0, started + count / per_second - time.monotonic()))
            await producer.flush()
        finally:
            await producer.stop()

    def _note(self, at: tuple[str, int, object, int], index: int) -> None:
        self.acknowledged[at[0], at[1], at[3]] = index


async def raw_records(settings: Settings) -> dict[Place, Record]:
    """What a reader sees of the topics that are written to."""
    log = KafkaLog(settings, "observer")
    await log.start()
    found = {}
    for topic in RAW:
        for partition in range(settings.raw_partitions):
            first, end = await log.bounds(topic, partition)
            async for batch in log.read(topic, partition, first, end):
                found.update({(topic, partition, r.offset): r for r in batch})
    await log.close()
    return found


@asynccontextmanager
async def at_work(settings: Settings, workers: int, seed: int) -> AsyncIterator[Herd]:
    """A broker, and processes that fold and view."""
    broker = Broker(settings)
    await broker.start()
    try:
        await ensure_topics(settings, declared(settings, folds()))
        herd = Herd(settings, seed)
        try:
            for _ in range(workers):
                herd.spawn()
            yield herd
        finally:
            herd.stop()
    finally:
        await broker.stop()


async def settled(settings: Settings, herd: Herd) -> None:
    """Wait until all is folded and viewed."""
    deadline = time.monotonic() + 120
    while await lag(settings):
        herd.tend()
        assert time.monotonic() < deadline, f"still lagging: {await lag(settings)}"
        await asyncio.sleep(0.2)
    await views_have_read_it(settings, deadline)


async def take_some(
    settings: Settings,
    load: Load,
    feeding: asyncio.Task[None],
    folder: Path,
    *,
    count: int,
    rng: random.Random,
) -> list[tuple[Path, Taken, dict[Place, int]]]:
    """Backups at random moments of the load, each with what was acknowledged before it began."""
    taken = []
    while len(load.acknowledged) < FIRST:  # noqa: ASYNC110 - they are noted by a callback
        await asyncio.sleep(0.05)
    for number in range(count):
        await asyncio.sleep(rng.uniform(0.5, 3.0))
        before = dict(load.acknowledged)
        path = folder / f"{number}.tar{rng.choice(['', '.gz'])}"
        taken.append((path, await asyncio.to_thread(backup, settings, path, lambda *_: None), before))
        assert not feeding.done(), "the load was over before the last backup"
    return taken


async def goes_on(
    original: Settings, load: Load, made: Made, path: Path, before: dict[Place, int]
) -> Settings:
    """Restore a backup elsewhere, look whether all is there, and write what it lacks; all is as if undisturbed."""
    settings = original.model_copy(
        update={"data": path.parent / path.name.partition(".")[0], "port": free_base_port()}
    )
    done = await asyncio.to_thread(restore, settings, path, lambda *_: None)
    async with at_work(settings, 1, 0) as herd:
        seen = await raw_records(settings)
        written = await raw_records(original)
        assert before.keys() <= seen.keys(), f"{len(before.keys() - seen.keys())} acknowledged ones are lost"
        assert seen == {place: written[place] for place in seen}
        assert done.manifest.log is not None
        ends = done.manifest.log.ends
        assert {place for place in written if place[2] < ends[place[0]][place[1]]} == seen.keys()
        there = {load.acknowledged[place] for place in seen}
        assert 0 < len(there) < len(made)
        print(
            f"{path.name}: {len(before)} acknowledged before, {len(seen)} there, {done.manifest.log.still_ms} ms"
        )
        rest = [index for index in range(len(made)) if index not in there]
        await Load(settings, made).write(rest, per_second=600)
        await settled(settings, herd)
        await compare(settings, made)
    return settings


async def scenario(folder: Path, *, seed: int, events: int, backups: int, rate: float, kills: bool) -> None:
    """Load, backups, and what comes of each."""
    rng = random.Random(seed)
    made = inputs(events, seed)
    settings = Settings(data=folder / "original", port=free_base_port())
    load = Load(settings, made)
    async with at_work(settings, 2, seed) as herd:
        feeding = asyncio.create_task(load.write(list(range(len(made))), rate))
        killing = asyncio.create_task(kill_some(herd, rng)) if kills else None
        taken = await take_some(settings, load, feeding, folder, count=backups, rng=rng)
        if killing is not None:
            killing.cancel()
        load.hurry = True
        await feeding
        await settled(settings, herd)
        await compare(settings, made)
        last = settings
        for path, _, before in taken:
            last = await goes_on(settings, load, made, path, before)
        await rebuilt_views_are_the_same(last)


async def kill_some(herd: Herd, rng: random.Random) -> None:
    """SIGKILL of folds and views now and then."""
    while True:
        await asyncio.sleep(rng.uniform(1.0, 3.0))
        herd.tend()
        herd.kill_views() if rng.random() < 0.3 else herd.kill_one()


async def rebuilt_views_are_the_same(settings: Settings) -> None:
    """What the restored views went on from equals what the whole log makes of them."""
    broker = Broker(settings)
    await broker.start()
    store = Store(settings.database_url, views())
    try:
        before = {view.name: shown(store, view.name) for view in views()}
        assert before["components"]
        await asyncio.gather(*(rebuild(settings, name) for name in before))
        assert {name: shown(store, name) for name in before} == before
    finally:
        store.close()
        await broker.stop()


@pytest.mark.prove
async def test_backups_under_load(tmp_path: Path) -> None:
    """What was acknowledged before is there, once; outputs, states and views end as in an undisturbed run."""
    await scenario(tmp_path, seed=1, events=2_000, backups=1, rate=200, kills=False)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(10))
async def test_many_backups_under_load_and_kills(tmp_path: Path, seed: int) -> None:
    """The same at many moments, while workers and views are killed."""
    await scenario(tmp_path, seed=100 + seed, events=20_000, backups=5, rate=500, kills=True)
