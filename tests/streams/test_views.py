"""The views process on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition
from sqlalchemy import update

from projections.catalog import views
from projections.generations import OFFSETS, lacking
from projections.store import Store
from projections.trouble import DatabaseUnavailable
from schemas import events as e
from schemas.codec import Codec
from schemas.errors import ConfigurationError
from streams import runner
from streams.admin import admin_client, ensure_topics
from streams.broker import Broker
from streams.gateway import serve
from streams.gateway.app import create_app
from streams.kafka import client_options
from streams.keys import admin_key
from streams.producing.producer import Position, Producer
from streams.settings import Settings
from streams.supervision.prepare import prepare
from streams.supervision.status import read_all
from streams.views.follower import list_views, rebuild, run
from streams.views.positions import Freshness
from streams.views.positions_kafka import KafkaOffsets
from tests.conftest import NewDatabase, free_base_port
from tests.postgres import USER, Cluster
from tests.projections.material import rows
from tests.streams.disks import Ballast, small_disk

ROOT = Path(__file__).parents[2]
NAMES = [view.name for view in views()]


async def instance(broker: Settings, folder: Path, database: str) -> Settings:
    """An instance of its own on the shared broker: topics in a namespace, views in a database of its own."""
    own = Settings(
        data=folder,
        port=broker.port,
        kafka=broker.bootstrap,
        namespace=f"v{uuid.uuid4().hex[:8]}",
        database=database,
        partitions=2,
        raw_partitions=2,
    )
    await ensure_topics(own)
    return own


@pytest.fixture
async def settings(broker: Settings, tmp_path: Path, new_database: NewDatabase) -> Settings:
    """Such an instance, on SQLite and on PostgreSQL."""
    return await instance(broker, tmp_path, new_database())


@contextlib.asynccontextmanager
async def running(*processes: Any) -> AsyncIterator[asyncio.Event]:
    """Run processes `(settings, stop)` meanwhile."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for settings, process in processes:
            tasks.create_task(process(settings, stop))
        try:
            yield stop
        finally:
            stop.set()


async def produce(settings: Settings, count: int, run_id: str = "r") -> list[Position]:
    """Steps of one run: half messages, half tool calls, every tenth of which fails."""
    tool: dict[str, Any] = {"agent_id": "a", "tool_name": "t", "call_id": "1"}
    async with Producer(settings) as producer:
        items = []
        for number in range(count):
            event: e.Event = e.MessagePosted(agent_id=f"a{number % 5}", role="user", content=str(number))
            if number % 2:
                event = e.ToolCallCompleted(**tool, latency_ms=1.0 + number)
            if number % 20 == 1:
                event = e.ToolCallFailed(**tool, error_type="Timeout", latency_ms=9.0)
            items.append(producer.outgoing(event, correlation_id=run_id))
        return await producer.emit_many(items)


def token(positions: list[Position]) -> dict[str, dict[int, int]]:
    """The position just after these records."""
    found: dict[str, dict[int, int]] = {}
    for topic, partition, offset in positions:
        known = found.setdefault(topic, {})
        known[partition] = max(known.get(partition, 0), offset + 1)
    return found


@contextlib.asynccontextmanager
async def asking(settings: Settings) -> AsyncIterator[tuple[Store, Freshness]]:
    """The views' database, and the way to wait for it, as `serve` has them."""
    store = Store(settings.database_url, views())
    offsets = KafkaOffsets(settings)
    try:
        yield store, Freshness(store, offsets)
    finally:
        await offsets.close()
        store.close()


async def prepared(settings: Settings) -> None:
    """Wait until the views process has made its tables."""
    async with asyncio.timeout(20):
        while any(info.state == "missing" for info in list_views(settings)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def settled(settings: Settings) -> None:
    """Wait until every view has read all there is."""
    async with asyncio.timeout(30):
        calm = 0
        while calm < 3:
            await asyncio.sleep(1.1)  # longer than a report takes to come
            facts = read_all(settings)["views"]["facts"].get("views", {})
            calm = calm + 1 if facts and all(fact["lag"] == 0 for fact in facts.values()) else 0


def run_row(store: Store, run_id: str = "r") -> Any:
    """A run's row; None where there is none."""
    with store.read("runs") as reading:
        table = reading.tables["runs"]["runs"]
        return reading.connection.execute(table.select().where(table.c.run_id == run_id)).one_or_none()


async def test_what_is_produced_is_counted_once_and_fresh(settings: Settings) -> None:
    """With folds and views running, `at_least` waits until all that followed is counted, each event once."""
    async with running((settings, run), (settings, runner.run)), asking(settings) as (store, wait_for):
        await prepared(settings)
        for round_ in range(1, 6):
            position = token(await produce(settings, 200))
            for name in ("events", "runs", "components", "agents", "anomalies", "dead_letters"):
                await wait_for(position, name, 20)
            row = run_row(store)
            assert (row.messages, row.tool_calls) == (100 * round_, 100 * round_)
            assert row.tool_failures == 10 * round_
            with store.read("components") as reading:
                table = reading.tables["components"]["components"]
                component = reading.connection.execute(table.select()).one()
            assert (component.calls, component.failures) == (100 * round_, 10 * round_)
        facts = read_all(settings)["views"]
        assert facts["state"] == "running"
        assert set(facts["facts"]["views"]) == set(NAMES)


async def test_a_deadline_passes_with_a_clear_answer(settings: Settings) -> None:
    """Without folds a view of signals cannot be fresh: the wait ends in time and says what it waited for."""
    from projections.position import BadToken
    from schemas.errors import DeadlineExceeded

    async with running((settings, run)), asking(settings) as (_, wait_for):
        await prepared(settings)
        position = token(await produce(settings, 10))
        await wait_for(position, "runs", 10)
        with pytest.raises(DeadlineExceeded, match=r"folds to read agent\.messages"):
            await wait_for(position, "components", 1)
        with pytest.raises(BadToken, match="no topic nowhere"):
            await wait_for({"nowhere": {0: 1}}, "runs", 10)
        with pytest.raises(BadToken, match="no partition 7"):
            await wait_for({"agent.runs": {7: 1}}, "runs", 10)
        with pytest.raises(BadToken, match="ends at 0"):
            await wait_for({"agent.runs": {0: 9}}, "runs", 10)


async def test_killed_again_and_again_counts_once(settings: Settings) -> None:
    """The views process killed with SIGKILL while events come in: no event is lost, none counted twice."""
    script = (
        "import asyncio, sys; from streams.settings import Settings; from streams.views.follower import run;"
        "asyncio.run(run(Settings.model_validate_json(sys.argv[1]), asyncio.Event()))"
    )
    spoken = settings.model_dump_json()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", script, spoken], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )

    process = start()
    try:
        positions = []
        for number in range(3):
            positions += await produce(settings, 4000)
            await asyncio.sleep(1.5 + 0.35 * number)  # it takes 1.2 s to come up
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = start()
        async with asking(settings) as (store, wait_for):
            await prepared(settings)
            for name in ("events", "runs"):
                await wait_for(token(positions), name, 60)
            row = run_row(store)
            assert (row.messages, row.tool_calls, row.tool_failures) == (6_000, 6_000, 600)
            with store.read("events") as reading:
                table = reading.tables["events"]["events"]
                assert len(reading.connection.execute(table.select()).all()) == 12_000
    finally:
        process.kill()
        process.wait()


async def test_two_processes_on_one_database_count_once(settings: Settings) -> None:
    """Two views processes at once get in each other's way, and neither loses nor doubles an event."""
    async with running((settings, run), (settings, run)), asking(settings) as (store, wait_for):
        await prepared(settings)
        positions: list[Position] = []
        for _ in range(5):
            positions += await produce(settings, 1000)
        for name in ("runs", "events"):
            await wait_for(token(positions), name, 60)
        row = run_row(store)
        assert (row.messages, row.tool_calls, row.tool_failures) == (2500, 2500, 250)
        assert len(rows(store, "events")["events"]) == 5000


async def never_back(store: Store) -> None:
    """Look at all views again and again: what they reflect never grows less."""
    seen: dict[str, dict[Any, int]] = {name: {} for name in NAMES}
    while True:
        for name in NAMES:
            _, offsets = await asyncio.to_thread(store.live, name)
            assert not lacking(offsets, seen[name]), f"{name} went back"
            seen[name] = offsets
        await asyncio.sleep(0.01)


async def test_a_rebuilt_view_equals_the_live_one(settings: Settings) -> None:
    """Every view, rebuilt while events come in and the process runs, comes to the live one's rows.

    Meanwhile what answers reflect never goes back.
    """
    async with running((settings, run), (settings, runner.run)), asking(settings) as (store, wait_for):
        await prepared(settings)
        await produce(settings, 3000)
        coming = asyncio.create_task(produce(settings, 6000, run_id="during"))
        watching = asyncio.create_task(never_back(store))
        said: list[tuple[int, int]] = []
        done = await asyncio.gather(
            *(rebuild(settings, name, progress=lambda *at: said.append(at)) for name in NAMES)
        )
        assert not watching.done(), watching.exception()
        watching.cancel()
        assert said
        assert all(read <= end for read, end in said)
        position = token(await coming)
        for name, rebuilt in zip(NAMES, done, strict=True):
            await wait_for(position, name, 30)
            assert (store.live(name)[0], rebuilt.skipped) == (rebuilt.generation, 0)
            assert rebuilt.generation == 2
        assert run_row(store, "during").messages == 3000
        await settled(settings)
        live = {name: (rows(store, name), store.live(name)[1]) for name in NAMES}
    await asyncio.gather(*(rebuild(settings, name) for name in NAMES))
    for name in NAMES:
        assert store.live(name) == (3, live[name][1])
        assert rows(store, name) == live[name][0], name
    assert {info.state for info in list_views(settings)} == {"live"}


async def test_a_record_that_is_no_event_is_skipped(settings: Settings) -> None:
    """Garbage on a topic is counted and passed over; what comes after it is in the view."""
    producer = AIOKafkaProducer(**client_options(settings))
    await producer.start()
    try:
        for garbage in (b"", b"garbage", b"\x00\x00\x00\x00\x01", b"\x00\xff\xff\xff\xff", None):
            for partition in (0, 1):
                await producer.send_and_wait(
                    settings.named("agent.messages"), garbage, key=b"\xff", partition=partition
                )
    finally:
        await producer.stop()
    async with running((settings, run)), asking(settings) as (store, wait_for):
        await prepared(settings)
        position = token(await produce(settings, 100))
        await wait_for(position, "runs", 20)
        assert run_row(store).messages == 50
        await settled(settings)
        assert read_all(settings)["views"]["facts"]["views"]["runs"]["skipped"] == 10


async def test_the_largest_records_pass(settings: Settings) -> None:
    """Records at the size limit, which no compression makes smaller, are read and do not stop a view."""
    large = os.urandom(settings.max_record_bytes // 2 - 500).hex()
    async with running((settings, run)), asking(settings) as (store, wait_for):
        await prepared(settings)
        async with Producer(settings) as producer:
            message = e.MessagePosted(agent_id="a", role="user", content=large)
            positions = await producer.emit_many(
                [producer.outgoing(message, correlation_id="r") for _ in range(8)]
            )
        await wait_for(token(positions), "runs", 30)
        await wait_for(token(positions), "events", 30)
        assert run_row(store).messages == 8
        with store.read("events") as reading:
            table = reading.tables["events"]["events"]
            assert large in reading.connection.execute(table.select()).first().data  # type: ignore[union-attr]


async def test_an_offset_below_the_log_is_not_passed_over(settings: Settings) -> None:
    """A view whose next records are gone stops and says so; others go on; a rebuild mends it."""
    positions = await produce(settings, 100)
    async with running((settings, run)), asking(settings) as (_, wait_for):
        await prepared(settings)
        await wait_for(token(positions), "runs", 20)
        await wait_for(token(positions), "events", 20)
    store = Store(settings.database_url, views())
    _, offsets = store.live("runs")
    back = {place: 1 for place in offsets if place[0] == "agent.messages"}
    with store._writer.begin() as connection:  # as if it had been down since then
        for (topic, partition), offset in back.items():
            c = OFFSETS.c
            connection.execute(
                update(OFFSETS)
                .where(c.view == "runs", c.topic == topic, c.partition == partition)
                .values(next_offset=offset)
            )
    async with admin_client(settings) as client:
        await client.delete_records(
            {TopicPartition(settings.named(t), p): RecordsToDelete(before_offset=5) for t, p in back}
        )
    async with running((settings, run)), asking(settings) as (_, wait_for):
        async with asyncio.timeout(20):
            while True:
                facts = read_all(settings)["views"]["facts"].get("views", {})
                error = facts.get("runs", {}).get("error") or ""
                if "stands at offset 1 of agent.messages" in error:
                    break
                await asyncio.sleep(0.1)
        assert "headwater views rebuild runs" in error
        later = token(await produce(settings, 10))
        await wait_for(later, "events", 20)
        assert store.live("runs")[1][next(iter(back))] == 1
        await rebuild(settings, "runs")
        await wait_for(later, "runs", 20)
    store.close()


async def test_a_broker_that_comes_back_is_followed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker killed and started anew: the views process gives its clients up, and goes on where it was."""
    monkeypatch.setattr("streams.views.source.SILENT_S", 2.0)
    settings = Settings(data=tmp_path, port=free_base_port(), partitions=1, raw_partitions=1)
    broker = Broker(settings)
    await broker.start()
    try:
        await ensure_topics(settings)
        async with running((settings, run)), asking(settings) as (store, wait_for):
            await prepared(settings)
            await wait_for(token(await produce(settings, 100)), "runs", 20)
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGKILL)
            await broker.stop()
            await asyncio.sleep(1)
            broker = Broker(settings)
            await broker.start()
            position = token(await produce(settings, 100))
            async with asyncio.timeout(40):
                while (row := run_row(store)) is None or row.messages < 100:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
            await wait_for(position, "runs", 20)
            assert row.messages == 100
    finally:
        await broker.stop()


def errors(settings: Settings) -> dict[str, str | None]:
    """What each view last said that was wrong."""
    facts = read_all(settings)["views"]["facts"].get("views", {})
    return {name: fact["error"] for name, fact in facts.items()}


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for what a process says of itself."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it is read from files that others write
            await asyncio.sleep(0.1)


async def test_a_database_that_comes_back_is_written_again(
    broker: Settings, tmp_path: Path, own_postgres: Cluster
) -> None:
    """PostgreSQL killed and started anew: views say what they miss, answers are 503, then nothing is missing."""
    settings = await instance(broker, tmp_path, own_postgres.url())
    api = create_app(settings, Codec())
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    key = {"Authorization": f"Bearer {admin_key(settings)}"}
    async with (
        running((settings, run)),
        asking(settings) as (store, wait_for),
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=key) as http,
    ):
        await prepared(settings)
        await wait_for(token(await produce(settings, 100)), "runs", 20)
        assert (await http.get("/v1/runs")).json()["items"][0]["messages"] == 50
        own_postgres.kill()
        answer = await http.get("/v1/runs")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["type"] == "urn:headwater:problem:database-unavailable"
        positions = await produce(settings, 100)
        await until(lambda: all(errors(settings).get(name) for name in ("runs", "events")))
        said = errors(settings)["runs"] or ""
        assert f"PostgreSQL at 127.0.0.1:{own_postgres.port}" in said
        assert own_postgres.password not in said
        await asyncio.to_thread(own_postgres.start)
        for name in ("runs", "events"):
            await wait_for(token(positions), name, 30)
        assert (await http.get("/v1/runs")).json()["items"][0]["messages"] == 100
        await until(lambda: not any(errors(settings).values()))
        own_postgres.kill()
        await asyncio.to_thread(own_postgres.start)
        await wait_for(token(await produce(settings, 100)), "runs", 30)
        assert run_row(store).messages == 150


async def test_a_full_disk_is_waited_for(broker: Settings, tmp_path: Path) -> None:
    """SQLite on a disk without room: views say so and what to do, are asked as ever, and go on once there is room."""
    with small_disk(tmp_path / "disk", 16) as disk:
        settings = await instance(broker, tmp_path / "data", f"sqlite:///{disk / 'views.sqlite'}")
        ballast = Ballast(disk)
        async with running((settings, run)), asking(settings) as (store, wait_for):
            await prepared(settings)
            await wait_for(token(await produce(settings, 100)), "runs", 20)
            ballast.fill()
            positions = await produce(settings, 2_000)
            await until(lambda: "database or disk is full" in (errors(settings)["events"] or ""))
            assert "make room on its disk" in (errors(settings)["events"] or "")
            assert run_row(store).messages >= 50
            ballast.drop()
            for name in ("runs", "events"):
                await wait_for(token(positions), name, 30)
            assert run_row(store).messages == 1_050
            await until(lambda: not any(errors(settings).values()))
            with store.read("runs") as reading:
                assert reading.connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


async def test_a_database_that_was_emptied_is_filled_again(
    broker: Settings, tmp_path: Path, postgres: Cluster
) -> None:
    """A database whose tables are gone, as after a restore from nothing, gets them again from the log."""
    settings = await instance(broker, tmp_path, postgres.new_schema())
    async with running((settings, run)), asking(settings) as (store, wait_for):
        await prepared(settings)
        await wait_for(token(await produce(settings, 100)), "runs", 20)
        schema = str(store.url.query["options"]).rpartition("=")[2]
        with postgres.admin(USER) as admin:
            admin.execute(f"DROP SCHEMA {schema} CASCADE")
            admin.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {USER}")
        position = token(await produce(settings, 100))
        await prepared(settings)
        await wait_for(position, "runs", 30)
        assert run_row(store).messages == 100


async def test_a_database_that_will_not_have_us_ends_the_start(
    broker: Settings, tmp_path: Path, postgres: Cluster
) -> None:
    """With a wrong password neither `views` nor `serve` starts, and both say what to do."""
    settings = await instance(broker, tmp_path, postgres.url(password="wrong-one"))
    for process in (run, serve.run):
        with pytest.raises(ConfigurationError, match="refuses the user or password") as refused:
            await process(settings, asyncio.Event())
        assert "wrong-one" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="refuses the user or password"):
        await prepare(settings)  # what `headwater up` does first


async def test_a_database_that_is_late_is_waited_for(
    broker: Settings, tmp_path: Path, own_postgres: Cluster
) -> None:
    """Where the server is down at the start, the status says so, and all begins when it is there."""
    settings = await instance(broker, tmp_path, own_postgres.url())
    own_postgres.kill()
    async with running((settings, run)):
        await until(
            lambda: "refused" in (read_all(settings).get("views", {}).get("facts", {}).get("error") or "")
        )
        assert read_all(settings)["views"]["state"] == "starting"
        with pytest.raises(DatabaseUnavailable):
            list_views(settings)
        await asyncio.to_thread(own_postgres.start)
        await prepared(settings)
        await until(lambda: read_all(settings)["views"]["state"] == "running")
        assert read_all(settings)["views"]["facts"]["error"] is None
