"""Hosted agents on a real broker: what they are given, what is said of them, and Faust's known faults contained."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from processors.addressing import Addressing
from schemas import catalog, topics
from schemas import events as e
from schemas.codec import Codec
from schemas.envelope import Envelope, to_headers
from schemas.errors import ConfigurationError
from streams.admin import ensure_topics
from streams.broker import Broker
from streams.fleet import host
from streams.fleet.agents import Fleet
from streams.partitions.kafka_log import KafkaLog
from streams.producing.batch import body
from streams.producing.outgoing import Outgoing, Prepared, prepare_inbox
from streams.producing.producer import Producer
from streams.reactors import host as reactors
from streams.reactors.dispatcher import Dispatcher
from streams.runner import Runner
from streams.sdk import Headwater
from streams.settings import Settings
from tests.conftest import free_base_port
from tests.streams.fleet.crew import fleet

ROOT = Path(__file__).parents[3]


@pytest.fixture
def settings(broker: Settings, tmp_path: Path) -> Settings:
    """A namespace of its own, with two partitions."""
    return Settings(
        data=tmp_path,
        port=broker.port,
        kafka=broker.bootstrap,
        namespace=f"f{uuid.uuid4().hex[:8]}",
        partitions=2,
        raw_partitions=1,
    )


async def give(settings: Settings, assigned: list[tuple[str, e.TaskAssigned]]) -> None:
    """Write assignments into the inbox, each with its id, as the dispatcher does."""
    producer = Producer(settings)
    codec, prepared = Codec(), []
    for id_, event in assigned:
        envelope = Envelope(id=id_, source="headwater/dispatcher", type="TaskAssigned", time=1.7e9)
        prepared.append(prepare_inbox(Outgoing(event, envelope, event.agent_id), codec))
    await producer.send(prepared)
    await producer.stop()


def task_for(
    agent_id: str, number: int, content: str = "x", sender: str | None = None
) -> tuple[str, e.TaskAssigned]:
    """An assignment and its id."""
    event = e.TaskAssigned(
        task_id=f"{agent_id}-{number}", agent_id=agent_id, kind="task", content=content, sender_id=sender
    )
    return f"id-{agent_id}-{number}", event


async def written(settings: Settings, topic: str) -> list[tuple[str, e.Event, Envelope]]:
    """Every event of a topic, as (id, event, envelope)."""
    log, codec, found = KafkaLog(settings, "observer"), Codec(), []
    await log.start()
    counts = {"raw": settings.raw_partitions, "control": 1}
    for partition in range(counts.get(catalog.topics()[topic].kind, settings.partitions)):
        first, end = await log.bounds(topic, partition)
        async for batch in log.read(topic, partition, first, end):
            for record in batch:
                decoded = codec.decode_record(record)
                found.append((decoded.envelope.id, decoded.event, decoded.envelope))
    await log.close()
    return found


async def until(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while True:
            value = holds()
            if await value if asyncio.iscoroutine(value) else value:
                return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def hosted(settings: Settings, crew: Fleet = fleet) -> AsyncIterator[host.Host]:
    """A host in this process."""
    await ensure_topics(settings)
    here, stop = host.Host(settings, crew, Codec()), asyncio.Event()
    running = asyncio.create_task(here.run(stop))
    await until(lambda: here._app is not None or running.done())
    try:
        yield here
    finally:
        stop.set()
        await running


def journal(settings: Settings) -> list[str]:
    """What was handled, in order: `agent task attempt`."""
    path = settings.data / "journal"
    return path.read_text().splitlines() if path.exists() else []


async def runs(settings: Settings) -> dict[str, str]:
    """Outcome by run id; each run has to end under one id."""
    ended: dict[str, e.RunFinished] = {}
    for id_, event, _ in await written(settings, topics.RUNS.name):
        if isinstance(event, e.RunFinished):
            assert ended.setdefault(id_, event) == event
    return {event.run_id: event.outcome for event in ended.values()}


async def test_a_task_reaches_its_agent_and_its_reply_comes_back(settings: Settings) -> None:
    """From a request over the SDK through fold and dispatcher to the handler: a run with its reply."""
    stop = asyncio.Event()
    async with hosted(settings):
        others = [
            asyncio.create_task(Runner(settings, lambda: [Addressing()]).run(stop)),
            asyncio.create_task(reactors.run(settings, stop, [Dispatcher()])),
        ]
        async with Headwater(settings) as hw:
            await hw.assign("echo", "hello", {"a": 1}, task_id="t-1", sender_id="sofia")
            await hw.assign("nobody", "hello")

        async def replied() -> bool:
            return bool(await written(settings, topics.MESSAGES.name))

        await until(replied)
        stop.set()
        await asyncio.gather(*others)
        ((_, message, envelope),) = await written(settings, topics.MESSAGES.name)
        assert message == e.MessagePosted(
            agent_id="echo", role="agent", content="hello!", recipient_id="sofia"
        )
        assert await runs(settings) == {envelope.correlation_id: "success"}
    kinds = [type(event).__name__ for _, event, _ in await written(settings, topics.LIFECYCLE.name)]
    assert kinds.count("AgentAnnounced") == kinds.count("AgentRetired") == len(fleet.agents)


async def test_two_agents_talk(settings: Settings) -> None:
    """What one says to the other comes into his inbox, and so back and forth until one has had enough."""
    stop = asyncio.Event()
    async with hosted(settings):
        others = [
            asyncio.create_task(Runner(settings, lambda: [Addressing()]).run(stop)),
            asyncio.create_task(reactors.run(settings, stop, [Dispatcher()])),
        ]
        async with Headwater(settings) as hw:
            await hw.assign("alice", "begin", conversation_id="c-1")
        await until(lambda: len(journal(settings)) == 5)
        await asyncio.sleep(1)
        stop.set()
        await asyncio.gather(*others)
    said = [event for _, event, _ in await written(settings, topics.MESSAGES.name)]
    assert [(m.agent_id, m.content, m.conversation_id) for m in said if isinstance(m, e.MessagePosted)] == [
        ("alice", "1", "c-1"), ("bob", "2", "c-1"), ("alice", "3", "c-1"), ("bob", "4", "c-1")
    ]  # fmt: skip


async def test_a_handler_that_raises_is_a_failed_run_and_a_dead_letter(settings: Settings) -> None:
    """What a retry may mend is tried again, the rest is not; the next task is handled, and garbage holds up nothing."""
    async with hosted(settings) as here:
        producer = Producer(settings)
        headers = to_headers(Envelope(id="g", source="s", type="TaskAssigned", time=0.0))
        record = body(b"default/echo", b"garbage", headers)
        await producer.send([Prepared("g", topics.INBOX.name, b"default/echo", record)])
        await producer.stop()
        await give(
            settings,
            [
                task_for("broken", 1),
                task_for("shaky", 1),
                task_for("refuses", 1),
                task_for("echo", 1),
                task_for("else", 1),
            ],
        )
        await until(lambda: here.handling.handled == 2 and here.handling.failed == 2)
    counted = Counter(line.split()[0] for line in journal(settings))
    assert counted == {"broken": 1, "shaky": 3, "refuses": 1, "echo": 1}
    assert sorted((await runs(settings)).values()) == ["failure", "failure", "success", "success"]
    letters = [event for _, event, _ in await written(settings, topics.DEAD_LETTERS.name)]
    assert {(x.fold, x.error_type) for x in letters if isinstance(x, e.DeadLetter)} == {
        (None, "DecodeError"), ("fleet.broken", "ValueError"), ("fleet.refuses", "HeadwaterError")
    }  # fmt: skip


async def test_heartbeats_come_by_the_clock(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every agent of a host says that it lives, while one of them is at work, and how busy it is."""
    monkeypatch.setattr(host, "HEARTBEAT_S", 1.0)
    async with hosted(settings):
        await give(settings, [task_for("slow", 1, "3")])
        await asyncio.sleep(5)
    beats: dict[str, list[float]] = {}
    for _, event, _ in await written(settings, topics.LIFECYCLE.name):
        if isinstance(event, e.AgentHeartbeat):
            beats.setdefault(event.agent_id, []).append(event.load)
    assert beats.keys() == fleet.agents.keys()
    assert all(len(loads) >= 3 for loads in beats.values())
    assert max(beats["slow"]) > 0.5 > max(beats["echo"])


async def test_an_assignment_delivered_again_is_handled_once(settings: Settings) -> None:
    """The dispatcher writes a copy again where it does not know: the host knows the id."""
    async with hosted(settings) as here:
        await give(settings, [task_for("echo", 1), task_for("echo", 1), task_for("echo", 2)])
        await until(lambda: here.handling.handled == 2)
        assert here.handling.repeated == 1
    assert journal(settings) == ["echo echo-1 1", "echo echo-2 1"]


class Hosts:
    """Processes that host the crew."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.processes: list[subprocess.Popen[bytes]] = []
        self._log = (settings.data / "hosts.log").open("ab")

    def start(self) -> subprocess.Popen[bytes]:
        """One more."""
        settings = self.settings
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.streams.fleet.crew"],
            env=os.environ
            | {
                "HEADWATER_DATA": str(settings.data),
                "HEADWATER_PORT": str(settings.port),
                "HEADWATER_KAFKA": settings.bootstrap,
                "HEADWATER_NAMESPACE": settings.namespace,
                "HEADWATER_PARTITIONS": str(settings.partitions),
                "HEADWATER_RAW_PARTITIONS": str(settings.raw_partitions),
                "HEADWATER_LOG_LEVEL": "WARNING",
            },
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """End all."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()


async def test_a_killed_host_loses_nothing(settings: Settings) -> None:
    """Two hosts, kill -9 of one after the other amid the work: every task is handled, and counts once."""
    await ensure_topics(settings)
    hosts = Hosts(settings)
    try:
        hosts.start(), hosts.start()
        numbers = range(120)
        for start in range(0, 120, 20):
            await give(settings, [task_for("slow", n, "0.02") for n in numbers[start : start + 20]])
            if start in (20, 60):
                await until(lambda count=start: len(journal(settings)) > count)  # type: ignore[misc]
                victim = hosts.processes.pop(0)
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                hosts.start()

        async def all_ended() -> bool:
            return len(await runs(settings)) == 120

        await until(all_ended, 120)
    finally:
        hosts.stop()
    assert {line.split()[1] for line in journal(settings)} == {f"slow-{n}" for n in numbers}
    assert set((await runs(settings)).values()) == {"success"}
    began = Counter(
        id_ for id_, event, _ in await written(settings, topics.RUNS.name) if isinstance(event, e.RunStarted)
    )
    assert len(began) == 120, "handled twice or not, a task's run has one id"


async def test_a_slow_handler_amid_a_rebalance(settings: Settings) -> None:
    """A handler of 20 s neither holds up a host that joins nor loses its task; the other partition goes on."""
    await ensure_topics(settings)
    hosts = Hosts(settings)
    try:
        hosts.start()
        await give(settings, [task_for("slow", 1, "20")])
        await until(lambda: "slow slow-1 1" in journal(settings))
        hosts.start()
        await asyncio.sleep(4)
        await give(
            settings, [task_for("echo", n) for n in range(4)] + [task_for("bob", n, "1") for n in range(4)]
        )
        began = asyncio.get_running_loop().time()

        async def all_ended() -> bool:
            return len(await runs(settings)) == 9

        await until(all_ended, 80)
        assert asyncio.get_running_loop().time() - began < 75
    finally:
        hosts.stop()
    assert set((await runs(settings)).values()) == {"success"}


@pytest.mark.parametrize("idle_s", [8.0, pytest.param(70.0, marks=pytest.mark.prove)])
async def test_an_idle_host_takes_over(settings: Settings, idle_s: float) -> None:
    """A host without partitions waits, however long, and works when the others are gone."""
    await ensure_topics(settings)
    hosts = Hosts(settings)
    try:
        for _ in range(3):
            hosts.start()
        await give(settings, [task_for("echo", n) for n in range(4)])
        await until(lambda: len(journal(settings)) >= 4)
        await asyncio.sleep(idle_s)
        for victim in hosts.processes[:2]:
            victim.kill()
            victim.wait()
        del hosts.processes[:2]
        await give(settings, [task_for("bob", n, "1") for n in range(8)])

        async def all_ended() -> bool:
            return len(await runs(settings)) == 12

        await until(all_ended, 60)
    finally:
        hosts.stop()


async def test_the_broker_is_killed_and_comes_back(tmp_path: Path) -> None:
    """Tasks that were given before, and one amid its work, come to their end when Kafka is back; none is lost."""
    settings = Settings(data=tmp_path, port=free_base_port(), partitions=2, raw_partitions=1)
    broker = Broker(settings)
    await broker.start()
    try:
        async with hosted(settings) as here:
            await give(settings, [task_for("slow", n, "0.5") for n in range(12)])
            await until(lambda: here.handling.handled >= 2)
            broker.kill()
            await broker.stop()
            await asyncio.sleep(3)
            await broker.start()

            async def all_ended() -> bool:
                return len(await runs(settings)) == 12

            await until(all_ended, 90)
            await give(settings, [task_for("echo", 1)])
            await until(lambda: "echo echo-1 1" in journal(settings))
        assert set((await runs(settings)).values()) == {"success"}
    finally:
        await broker.stop()


async def test_a_stalled_app_is_started_anew(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that stops fetching while there is a lag, as Faust's do now and then, is noticed and replaced."""
    monkeypatch.setattr(host, "STALLED_S", 3.0)
    monkeypatch.setattr(host, "LOOK_S", 0.5)
    async with hosted(settings) as here:
        await give(settings, [task_for("echo", 1)])
        await until(lambda: here.handling.handled == 1)
        await asyncio.sleep(2)
        here._app.consumer._thread._consumer.pause(*here._app.consumer._thread._consumer.assignment())
        await give(settings, [task_for("echo", 2)])
        await until(lambda: here.restarts == 1, 40)
        await until(lambda: here.handling.handled == 2, 40)


def test_modules_without_a_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No module, a module that fails, none, two or an empty fleet: each is told, and what to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    head = "from streams.fleet import Fleet\n"
    for name, content in {
        "raises": "1 / 0",
        "none": "x = 1",
        "two": head + "a, b = Fleet('a'), Fleet('b')",
        "empty": head + "fleet = Fleet()",
    }.items():
        (tmp_path / f"crew_{name}.py").write_text(content)
    for module, says in {
        "crew_absent": "cannot be imported",
        "crew_raises": "ZeroDivisionError",
        "crew_none": "no Fleet",
        "crew_two": "2 fleets",
        "crew_two:c": "no Fleet called c",
        "crew_empty": "no agent",
    }.items():
        with pytest.raises(ConfigurationError, match=says):
            host.load(module)


def test_two_agents_of_one_id() -> None:
    """The second one is refused: it would never be given anything."""
    crew = Fleet()
    crew.agent("a")(fleet.agents["echo"].handle)
    with pytest.raises(ConfigurationError, match="two agents called a"):
        crew.agent("a")(fleet.agents["echo"].handle)
