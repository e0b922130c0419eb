"""Questions about the past on a real broker: what was answered then is answered again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition

from projections.history import BUCKET
from projections.past.cut import shown
from projections.position import decode, encode
from schemas import events as e
from schemas.codec import Codec
from schemas.envelope import Envelope, to_headers
from streams import runner
from streams.admin import admin_client
from streams.gateway.app import create_app
from streams.kafka import client_options
from streams.keys import admin_key
from streams.producing.producer import Outgoing, Producer
from streams.settings import Settings
from streams.views.follower import rebuild, run
from streams.views.past import _RECORDS
from tests.conftest import NewDatabase
from tests.streams.test_views import ROOT, asking, instance, prepared, produce, running, settled, token
from tests.streams.undisturbed import lag

PATHS = ("components", "agents", "runs")
VIEWS = ("components", "agents", "runs", "events")
FOLLOW = (
    "import asyncio, sys; from streams.settings import Settings; from streams.views.follower import run;"
    "asyncio.run(run(Settings.model_validate_json(sys.argv[1]), asyncio.Event()))"
)


@pytest.fixture
async def settings(broker: Settings, tmp_path: Path, new_database: NewDatabase) -> Settings:
    """An instance of its own, on SQLite and on PostgreSQL."""
    return await instance(broker, tmp_path, new_database())


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole application."""
    api = create_app(settings, Codec())
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    key = {"Authorization": f"Bearer {admin_key(settings)}"}
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=key, timeout=60) as http,
    ):
        yield http


@dataclass(frozen=True)
class Noted:
    """A time, and all that was answered just before it, by path."""

    at: str
    answers: dict[str, Any]


async def note(http: httpx.AsyncClient) -> Noted:
    """Ask for everything there is."""
    answers = {}
    for path in PATHS:
        answers[f"/v1/{path}"] = await asked(http, f"/v1/{path}", limit=500)
        for item in answers[f"/v1/{path}"]["items"]:
            one = f"/v1/{path}/{item['id']}"
            answers[one] = await asked(http, one)
    at = datetime.now(UTC).isoformat()
    await asyncio.sleep(0.02)  # Kafka's stamps are milliseconds
    return Noted(at, answers)


async def asked(http: httpx.AsyncClient, path: str, **params: Any) -> Any:
    """An answer."""
    answer = await http.get(path, params=params)
    assert answer.status_code == 200, (path, answer.text)
    return answer.json()


async def answered_again(http: httpx.AsyncClient, noted: Noted) -> None:
    """Ask for all of it again, at each answer's own position and at the time."""
    for path, answer in noted.answers.items():
        params = {} if path.count("/") > 2 else {"limit": 500}
        assert await asked(http, path, at=answer["position"], **params) == answer
        then = await asked(http, path, at=noted.at, **params)
        # What lies between the last record and the time, markers of transactions, counts to the position only.
        assert then | {"position": ""} == answer | {"position": ""}
        assert all(
            then_offset >= offset
            for topic, places in decode(answer["position"]).items()
            for partition, offset in places.items()
            for then_offset in [decode(then["position"])[topic][partition]]
        )


async def grow(settings: Settings, count: int, round_: int) -> None:
    """Produce steps of runs that go on over rounds, of agents and tools; some come again, some are late."""
    chance = random.Random(round_)
    async with Producer(settings) as producer:
        items: list[Outgoing] = []
        for number in range(count):
            agent, run_id = f"a{number % 5}", f"r{round_ - number % 2}"
            event: e.Event = e.MessagePosted(agent_id=agent, role="user", content=str(number))
            if number % 2:
                event = e.ToolCallCompleted(
                    agent_id=agent,
                    tool_name=f"t{number % 3}",
                    call_id="1",
                    latency_ms=chance.expovariate(0.1),
                )
            if number % 50 == 0:
                event = e.AgentHeartbeat(agent_id=agent, load=chance.random(), version=str(number))
            if number % 400 == 1:
                event = e.RunStarted(run_id=run_id, agent_id=agent, task=str(number))
            late = time.time() - chance.choice([0, 0, 0, 60])
            item = producer.outgoing(event, correlation_id=run_id, time=late)
            items += [item, item] if number % 29 == 0 else [item]
        await producer.emit_many(items)


async def all_read(settings: Settings) -> None:
    """Wait until the folds have taken all there is, and the views what came of it."""
    async with asyncio.timeout(60):
        while await lag(settings):  # noqa: ASYNC110 - Kafka has to be asked
            await asyncio.sleep(0.2)
    await settled(settings)


async def test_what_was_answered_then_is_answered_again(settings: Settings) -> None:
    """Every answer of three moments comes again, by its token and by the time: also after a rebuild.

    Between the moments events come in by the thousand while the views process is killed.
    """
    chance = random.Random(1)
    process = follow(settings)
    try:
        async with running((settings, runner.run)), serving(settings) as http:
            await prepared(settings)
            noted = [await note(http)]
            for round_ in range(1, 3):
                growing = asyncio.create_task(grow(settings, 3_000, round_))
                await asyncio.sleep(chance.uniform(0.2, 1.5))
                process.kill()
                process.wait()
                process = follow(settings)
                await growing
                await all_read(settings)
                noted.append(await note(http))
            assert any(
                end > 2 * BUCKET
                for end in decode(noted[-1].answers["/v1/agents"]["position"])["signals"].values()
            )
            for moment in noted:
                await answered_again(http, moment)
            await asyncio.gather(*(rebuild(settings, view) for view in VIEWS))
            for moment in noted:
                await answered_again(http, moment)
            first, last = (noted[n].answers["/v1/runs"]["items"] for n in (0, -1))
            assert (len(first), len(last)) == (0, 3)
    finally:
        process.kill()
        process.wait()


def follow(settings: Settings) -> subprocess.Popen[bytes]:
    """The views process, to be killed."""
    return subprocess.Popen(
        [sys.executable, "-c", FOLLOW, settings.model_dump_json()],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


async def test_an_answer_reads_less_than_a_bucket_of_a_partition(settings: Settings) -> None:
    """However long the log, a cut reads less than BUCKET records of each place, once; then pages are free."""
    async with running((settings, run)), serving(settings) as http, asking(settings) as (store, wait_for):
        await prepared(settings)
        for count in (1_000, 5_000):
            positions = token(await produce(settings, count))
            await wait_for(positions, "runs", 60)
            before = _RECORDS._value.get()
            found = await asked(http, "/v1/runs", at=encode(positions), limit=1)
            read = _RECORDS._value.get() - before
            assert 0 < read < BUCKET * sum(len(places) for places in positions.values())
            await asked(http, "/v1/runs/r", at=found["position"])
            assert _RECORDS._value.get() == before + read
        _, offsets = store.live("runs")
        assert max(offsets.values()) > 2 * BUCKET


async def test_a_time_amid_a_transaction_waits_for_its_end(settings: Settings) -> None:
    """What was written before a time belongs to it though it was committed after; until then there is 504."""
    codec, message = Codec(), e.MessagePosted(agent_id="a", role="user", content="x")
    async with running((settings, run)), serving(settings) as http, asking(settings) as (_, wait_for):
        await prepared(settings)
        await wait_for(token(await produce(settings, 10)), "runs", 30)
        writer = AIOKafkaProducer(**client_options(settings), transactional_id=settings.named("past"))
        await writer.start()
        try:
            await writer.begin_transaction()
            headers = to_headers(
                Envelope(id="x", source="s", type="MessagePosted", time=time.time(), correlation_id="r")
            )
            await writer.send_and_wait(
                settings.named("agent.messages"), codec.encode(message), key=b"default/a", headers=headers
            )
            at = shown(int(time.time() * 1000) + 5)
            late = await http.get("/v1/runs/r", params={"at": at, "deadline_s": 1})
            assert late.status_code == 504, late.text
            assert "agent.messages" in late.json()["detail"]
            asking_then = asyncio.create_task(asked(http, "/v1/runs/r", at=at, deadline_s=30))
            await asyncio.sleep(0.2)
            await writer.commit_transaction()
            assert (await asking_then)["messages"] == 6
        finally:
            await writer.stop()


async def test_what_retention_took_is_gone(settings: Settings) -> None:
    """Where Kafka deleted what a cut needs there is 410, and the time that it names is answered."""
    async with running((settings, run)), serving(settings) as http, asking(settings) as (_, wait_for):
        await prepared(settings)
        early = encode(token(await produce(settings, 20)))
        begun = datetime.now(UTC).isoformat()
        for _ in range(3):
            await asyncio.sleep(0.05)
            await wait_for(token(await produce(settings, 2 * BUCKET)), "runs", 60)
        now = await asked(http, "/v1/runs/r")
        tool_calls = {
            TopicPartition(settings.named("agent.tool-calls"), partition): RecordsToDelete(before_offset=30)
            for partition, end in decode(now["position"])["agent.tool-calls"].items()
            if end > BUCKET
        }
        async with admin_client(settings) as client:
            await client.delete_records(tool_calls)
        for at in (early, begun):
            answer = await http.get("/v1/runs/r", params={"at": at})
            assert answer.status_code == 410, answer.text
            assert "begins at offset 30" in answer.json()["detail"]
            since = answer.json()["hint"].rpartition(" ")[2]
            told = await asked(http, "/v1/runs/r", at=since)
            assert 0 < told["tool_calls"] < now["tool_calls"]


@pytest.mark.parametrize("at", ["agent.runs/7", "agent.runs/0 too far", "nowhere/0"])
async def test_a_token_of_another_log_is_refused(settings: Settings, at: str) -> None:
    """A place that is not there, or not that long, is no past of this log."""
    place, _, far = at.partition(" ")
    topic, _, partition = place.rpartition("/")
    async with running((settings, run)), serving(settings) as http:
        await prepared(settings)
        answer = await http.get("/v1/runs", params={"at": encode({topic: {int(partition): 9 if far else 1}})})
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:headwater:problem:bad-token")
