"""A cluster of one's own, three nodes: brokers die and are restarted under load, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError

from schemas import events as e
from schemas.envelope import Envelope
from schemas.errors import HeadwaterError
from schemas.topics import key_of
from streams.admin import admin_client, differences, ensure_topics, kept_by
from streams.kafka import client_options, close, connect
from streams.partitions.kafka_log import KafkaLog
from streams.partitions.log import Send
from streams.partitions.stable import stable_position
from streams.producing.producer import Outgoing, Producer
from streams.settings import Settings
from tests.streams.cluster import Cluster, Node
from tests.streams.deployment import Deployment, settings_of
from tests.streams.undisturbed import compare, inputs, lag, views_have_read_it

CAUGHT_UP_S = 30.0
"""After the last disturbance, folds and views have read everything within this time."""


async def until(condition: Callable[[], Awaitable[object]], timeout_s: float, what: str) -> None:
    """Wait for a condition."""
    end = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < end, f"{what}: not within {timeout_s:g} s"
        await asyncio.sleep(0.2)


async def in_sync(admin: AIOKafkaAdminClient) -> bool:
    """Whether every replica of every topic has all of it: only then may the next node be stopped."""
    described = await admin.describe_topics()
    return all(set(p["replicas"]) == set(p["isr"]) for topic in described for p in topic["partitions"])


async def produce(
    settings: Settings, made: list[tuple[e.Event, Envelope]], per_second: float, stop: asyncio.Event
) -> int:
    """Write by the product's producer, in order, until `stop`; returns how many were acknowledged."""
    started = time.monotonic()
    batch = max(1, int(per_second / 10))
    done = 0
    async with Producer(settings, source="kills", deadline_s=60) as producer:
        while not stop.is_set():
            assert done < len(made), "all was produced before the last disturbance"
            some = made[done : done + batch]
            await producer.emit_many([Outgoing(event, said, key_of(event)) for event, said in some])
            done += len(some)
            await asyncio.sleep(max(0.0, started + done / per_second - time.monotonic()))
    return done


class Disturbance:
    """What is done to the nodes, one after the other, all copies being in sync again before the next."""

    def __init__(self, cluster: Cluster, settings: Settings, seed: int) -> None:
        self.cluster = cluster
        self.settings = settings
        self._random = random.Random(seed)

    async def kill_any(self) -> None:
        """SIGKILL of a node."""
        await self._kill(self._random.choice(self.cluster.nodes))

    async def kill_coordinator(self) -> None:
        """SIGKILL of the node that coordinates the transactions of a partition of signals."""
        partition = self._random.randrange(self.settings.partitions)
        transactional_id = self.settings.named(f"folds.signals.{partition}")
        client = AIOKafkaClient(**client_options(self.settings))
        await client.bootstrap()
        number = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
        await client.close()
        await self._kill(next(node for node in self.cluster.nodes if node.number == number))

    async def roll(self) -> None:
        """A rolling restart: each node is stopped cleanly and started again."""
        for node in self.cluster.nodes:
            await node.stop()
            await self.cluster.restart(node)
            await self._until_in_sync()

    async def _kill(self, node: Node) -> None:
        node.kill()
        await asyncio.sleep(self._random.uniform(0.0, 4.0))
        await self.cluster.restart(node)
        await self._until_in_sync()

    async def _until_in_sync(self) -> None:
        async with admin_client(self.settings, 30) as admin:
            await until(lambda: in_sync(admin), 60, "in sync")


class Herd:
    """Two workers and the views, on two hosts, as a user runs them on a cluster of his own."""

    def __init__(self, folder: Path, cluster: Cluster, partitions: int) -> None:
        self.deployment = Deployment(
            folder,
            {
                "HEADWATER_KAFKA": cluster.bootstrap(),
                "HEADWATER_NAMESPACE": "team",
                "HEADWATER_SNAPSHOT_KEY": "the same on all hosts",
                "HEADWATER_PARTITIONS": str(partitions),
            },
            folds={"ledger": "tests.streams.kill_worker:Ledger"},
        )
        self.settings = settings_of(self.deployment, "a")

    async def start(self) -> None:
        """Make the topics, start the processes, and wait until they work."""
        created = self.deployment.run("topics", "create")
        assert created.returncode == 0, created.stderr
        self.deployment.start("a", "folds")
        self.deployment.start("b", "folds")
        self.deployment.start("a", "views")

        async def running() -> bool:
            return all(self.deployment.running(*p) for p in (("a", "folds"), ("b", "folds"), ("a", "views")))

        await until(running, 60, "the processes run")

    async def kept_by_three(self) -> None:
        """What `topics create` made is kept by three brokers, of which two have to have a record."""
        assert kept_by(3) == {"min.insync.replicas": "2"}
        assert await differences(self.settings) == []
        async with admin_client(self.settings) as admin:
            for topic in await admin.describe_topics():
                assert {len(p["replicas"]) for p in topic["partitions"]} == {3}, topic["topic"]

    async def read_everything(self) -> float:
        """Wait until folds and views have read all there is; returns the seconds that it took."""
        began = time.monotonic()
        deadline = began + CAUGHT_UP_S
        while left := await lag(self.settings):
            self.deployment.tend()
            assert time.monotonic() < deadline, f"still {left} records behind"
            await asyncio.sleep(0.2)
        await views_have_read_it(self.settings, deadline)
        return time.monotonic() - began


async def scenario(
    folder: Path,
    cluster: Cluster,
    seed: int,
    disturb: Callable[[Disturbance], Awaitable[None]],
    *,
    per_second: float = 150,
    partitions: int = 8,
) -> None:
    """Feed all the while, disturb, let it settle, and compare with an undisturbed run."""
    await cluster.start()
    herd = Herd(folder, cluster, partitions)
    try:
        await herd.start()
        await herd.kept_by_three()
        made = inputs(200_000, seed)
        stop = asyncio.Event()
        feeding = asyncio.create_task(produce(herd.settings, made, per_second, stop))
        await asyncio.sleep(3)
        await disturb(Disturbance(cluster, herd.settings, seed))
        stop.set()
        acknowledged = await feeding
        taken = await herd.read_everything()
        print(f"{acknowledged} events, all read {taken:.1f} s after the last one was acknowledged")
        herd.deployment.stop()
        await compare(herd.settings, made[:acknowledged])
    finally:
        herd.deployment.stop()
        await cluster.stop()


async def test_a_broker_dies_and_all_are_restarted(tmp_path: Path) -> None:
    """One node is killed, then all are restarted in turn, under load: as if nothing had happened."""

    async def disturb(nodes: Disturbance) -> None:
        await nodes.kill_any()
        await nodes.roll()

    cluster = Cluster(tmp_path / "kafka", settings={"broker.session.timeout.ms": 5_000})
    await scenario(tmp_path, cluster, 1, disturb, per_second=50, partitions=4)


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
async def test_brokers_die_and_are_restarted_again_and_again(tmp_path: Path, seed: int) -> None:
    """Twelve kills, half of them of a transaction's coordinator, and three rolling restarts leave no trace."""

    async def disturb(nodes: Disturbance) -> None:
        for _ in range(3):
            for _ in range(2):
                await nodes.kill_coordinator()
                await nodes.kill_any()
            await nodes.roll()

    await scenario(tmp_path, Cluster(tmp_path / "kafka"), seed, disturb)


class Asked:
    """A position that moves with each transaction, asked for all the while as aiokafka does and as we do."""

    def __init__(self, settings: Settings) -> None:
        self.told: Counter[str] = Counter()
        self.ours = AIOKafkaClient(**client_options(settings))
        self._settings = settings
        self._theirs = AIOKafkaConsumer(
            **client_options(settings), group_id="folds", enable_auto_commit=False
        )
        self._tp = TopicPartition("signals", 0)
        self._acknowledged = 0

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Commit and ask for as long as the block runs."""
        await connect(self._settings, self._theirs, 30)
        await connect(self._settings, self.ours, 30)
        tasks = [
            asyncio.create_task(self._commit()),
            asyncio.create_task(self._ask("theirs", lambda: self._theirs.committed(self._tp))),
            asyncio.create_task(self._ask("ours", lambda: stable_position(self.ours, "folds", self._tp))),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await close(self._theirs)
            await close(self.ours)

    async def _commit(self) -> None:
        log = KafkaLog(self._settings)
        await log.start()
        while True:
            try:
                transactions = await log.fence(self._tp.topic, self._tp.partition, lambda _: None)
                while True:
                    await transactions.commit([Send("anomalies", b"k", b"v")], self._acknowledged + 1)
                    self._acknowledged += 1
            except HeadwaterError:
                position = await log.committed(self._tp.topic, self._tp.partition)
                self._acknowledged = max(self._acknowledged, position or 0)

    async def _ask(self, how: str, answer: Callable[[], Awaitable[int | None]]) -> None:
        while True:
            before = self._acknowledged
            try:
                async with asyncio.timeout(10):
                    position = await answer() or 0
            except (KafkaError, TimeoutError):
                continue
            finally:
                await asyncio.sleep(0.01)
            self.told[how + (" old" if position < before else " right")] += 1


@pytest.mark.prove
async def test_a_position_is_never_older_than_what_was_committed(tmp_path: Path) -> None:
    """A coordinator that has just taken over: asked as aiokafka asks it tells old positions, as we do none.

    Were ours old, a partition would be folded again from there, and its outputs written twice.
    """
    cluster = Cluster(tmp_path / "kafka")
    await cluster.start()
    try:
        settings = Settings(data=tmp_path, kafka=cluster.bootstrap())
        await ensure_topics(settings)
        asked = Asked(settings)
        async with asked.going_on():
            for _ in range(4):
                await asyncio.sleep(5)
                number = await asked.ours.coordinator_lookup(CoordinationType.GROUP, "folds")
                node = next(node for node in cluster.nodes if node.number == number)
                node.kill()
                await asyncio.sleep(12)
                await cluster.restart(node)
    finally:
        await cluster.stop()
    print(dict(asked.told))
    assert asked.told["ours right"] > 100
    assert asked.told["ours old"] == 0
    assert asked.told["theirs old"] > 0, "nothing was shown: aiokafka's own way told no old position either"
