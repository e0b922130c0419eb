"""Cut-overs on a real broker: workers killed in the middle, and back; old and new installations side by side."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from processors.anomaly import Anomaly
from processors.versions import by_name
from schemas import events as e
from schemas import topics
from schemas.codec import Record
from schemas.envelope import Envelope
from streams.partitions.kafka_log import KafkaLog
from streams.settings import Settings
from tests.streams.undisturbed import lag, produce
from tests.streams.versions.installation import Fleet, lines_of
from tests.streams.versions.successors import Seen, Told, every_version

PARTITIONS = 2
INSTALLED = by_name([*every_version(), Anomaly()])
BASE = {"chain": 1, "echo": 1, "silence": 1, "anomaly": 1}


@pytest.fixture
def fleet(broker: Settings, tmp_path: Path) -> Iterator[Fleet]:
    """A namespace with its topics, and no worker yet."""
    fleet = Fleet(broker, tmp_path, PARTITIONS)
    code, _, complained = fleet.run("topics", "create")
    assert code == 0, complained
    yield fleet
    fleet.stop()


def signals(first: int, count: int) -> list[tuple[e.Event, Envelope]]:
    """Signals of forty components; some are sent twice. Their times lie a little behind, so that wakes are due soon."""
    made: list[tuple[e.Event, Envelope]] = []
    for i in range(first, first + count):
        event = e.Signal(component=f"c{i % 40}", kind="metric", name="m", value=float(20 + i % 50))
        envelope = Envelope(id=f"s{i}", source="test", type="Signal", time=time.time() - 55 + i % 3)
        made += [(event, envelope)] * (2 if i % 30 == 7 else 1)
    return made


class Traffic:
    """Signals as long as it is open."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sent = 0
        self._stop = False

    async def run(self) -> None:
        """Write some, over and over."""
        while not self._stop:
            await produce(self.settings, signals(self.sent, 100), per_second=150)
            self.sent += 100


@asynccontextmanager
async def traffic(settings: Settings) -> AsyncIterator[Traffic]:
    """Signals, until the block is left; all that were begun are sent."""
    flow = Traffic(settings)
    running = asyncio.create_task(flow.run())
    try:
        yield flow
    finally:
        flow._stop = True
        await running


async def all_of(settings: Settings, topic: str) -> dict[int, list[Record]]:
    """Every committed record of a topic by partition."""
    log = KafkaLog(settings, "observer")
    await log.start()
    found: dict[int, list[Record]] = {}
    for partition in range(PARTITIONS):
        first, end = await log.bounds(topic, partition)
        found[partition] = [r async for batch in log.read(topic, partition, first, end) for r in batch]
    await log.close()
    return found


async def settled(settings: Settings, timeout_s: float = 90) -> None:
    """Everything is folded."""
    deadline = time.monotonic() + timeout_s
    while await lag(settings):
        assert time.monotonic() < deadline, f"still lagging: {await lag(settings)}"
        await asyncio.sleep(0.5)


async def ended(command: subprocess.Popen[str], timeout_s: float = 180) -> tuple[int, str, str]:
    """Exit code, what it said, what it complained of."""
    said, complained = await asyncio.to_thread(command.communicate, None, timeout_s)
    return command.returncode, said, complained


async def answered(fleet: Fleet, count: int, timeout_s: float = 90) -> None:
    """So many findings came out."""
    log = KafkaLog(fleet.settings, "observer")
    await log.start()
    deadline = time.monotonic() + timeout_s
    while sum([(await log.bounds("anomalies", p))[1] for p in range(PARTITIONS)]) < count:
        assert time.monotonic() < deadline, fleet.said()
        await asyncio.sleep(0.2)
    await log.close()


async def died(worker: subprocess.Popen[bytes], timeout_s: float = 90) -> None:
    """The worker killed itself where it was told to."""
    assert await asyncio.to_thread(worker.wait, timeout_s) == -signal.SIGKILL


async def account(settings: Settings) -> tuple[list[Seen], list[Seen], dict[int, list[e.FoldSwitched]]]:
    """What came out, what should have by the log and its switches, and these."""
    names = ("signals", topics.ticks("signals"), topics.versions("signals"), "anomalies")
    logs = {name: await all_of(settings, name) for name in names}
    expected: list[Seen] = []
    switches = {}
    for partition in range(PARTITIONS):

        def read(topic: str, partition: int = partition) -> list[Record]:
            return logs[topic][partition]

        installed = {name: INSTALLED[name] for name in BASE}
        told = Told(read, partition, installed, BASE)
        expected += told.outputs
        switches[partition] = told.facts
    seen: list[Seen] = [
        (r.key, r.value, tuple(r.headers)) for part in logs["anomalies"].values() for r in part
    ]
    return seen, expected, switches


def same(seen: list[Seen], expected: list[Seen]) -> None:
    """Each as often; thousands of records are more than a failed comparison of lists can show in time."""
    lost, more = Counter(expected) - Counter(seen), Counter(seen) - Counter(expected)
    assert not lost, f"{lost.total()} of {len(expected)} lost or other, such as {next(iter(lost))}"
    assert not more, f"{more.total()} too many, such as {next(iter(more))}"


async def one_version_each(settings: Settings, switches: dict[int, list[e.FoldSwitched]]) -> int:
    """Every signal was answered by one version of `echo`, as often as that one answers; returns how many were."""
    inputs = await all_of(settings, "signals")
    answers: dict[str, list[int]] = defaultdict(list)
    for part in (await all_of(settings, "anomalies")).values():
        for record in part:
            headers = dict(record.headers)
            if headers["ce_source"] == b"headwater/folds/echo":
                answers[headers["ce_causationid"].decode()].append(int(headers["ce_foldversion"]))
    seen: set[str] = set()
    for partition, records in inputs.items():
        changes = [(f.position, f.version) for f in switches[partition] if f.fold == "echo"]
        for record in records:
            id_ = dict(record.headers)["ce_id"].decode()
            if id_ in seen:
                continue
            seen.add(id_)
            version = next((v for at, v in reversed(changes) if record.offset >= at), 1)
            assert answers.pop(id_) == [version] * version, f"signals/{partition}@{record.offset}"
    assert not answers
    return len(seen)


@pytest.mark.prove
async def test_there_and_back_with_workers_killed(fleet: Fleet) -> None:
    """Two versions in, two workers dead amid the switches, and back again: every input by one version, once."""
    settings = fleet.settings
    # The log begins with the old versions, as where these were at work before others were installed.
    old = ("chain-1", "echo-1", "silence-1")
    first = fleet.work(*old)
    async with traffic(settings):
        await answered(fleet, 1_000)
        first.terminate()
        fleet.work(crash_at="switch.begun:2")
        fleet.work(crash_at="switch.done:1")
        chain = fleet.command("folds", "cut-over", "chain", "--to", "2", "--yes", "--reason", "better")
        echo = fleet.command("folds", "cut-over", "echo", "--yes")
        for worker in list(fleet.workers[1:]):
            await died(worker)
            fleet.work()
        for command in (chain, echo):
            code, said, complained = await ended(command)
            assert code == 0, complained
            assert f"version 2 is in force in {PARTITIONS} partitions (refold)" in said
        code, said, complained = await ended(fleet.command("folds", "cut-over", "silence", "--yes"))
        assert code == 0, complained
        assert "(migrate)" in said
        await asyncio.sleep(3)
        victim = fleet.work(crash_at="commit.sent:40")
        back = fleet.command("folds", "cut-over", "chain", "--to", "1", "--yes")
        code, _, complained = await ended(back)
        assert code == 0, complained
        code, _, complained = await ended(fleet.command("folds", "cut-over", "echo", "--to", "1", "--yes"))
        assert code == 0, complained
        await died(victim)
        await asyncio.sleep(2)
    await settled(settings)
    fleet.stop()
    seen, expected, switches = await account(settings)
    same(seen, expected)
    assert await one_version_each(settings, switches) > 1_000
    for partition, facts in switches.items():
        for fold, versions in {"chain": [2, 1], "echo": [2, 1], "silence": [2]}.items():
            assert [f.version for f in facts if f.fold == fold] == versions, (partition, fold)
    pauses = [entry["pause_ms"] for entry in lines_of(fleet.said(), "fold.switched")]
    print("pauses of partitions, ms:", sorted(pauses))
    assert max(pauses) < 2_000


@pytest.mark.prove
async def test_an_account_of_other_offsets_does_not_hold(fleet: Fleet) -> None:
    """The comparison can fail: an account of the same log with switches one record later is another one."""
    settings = fleet.settings
    first = fleet.work("chain-1", "echo-1", "silence-1")
    async with traffic(settings):
        await answered(fleet, 500)
        first.terminate()
        fleet.work()
        code, _, complained = await ended(fleet.command("folds", "cut-over", "echo", "--yes"))
        assert code == 0, complained
        await asyncio.sleep(1)
    await settled(settings)
    fleet.stop()
    seen, expected, switches = await account(settings)
    same(seen, expected)
    late = {
        p: [f.model_copy(update={"position": f.position + 10}) for f in facts]
        for p, facts in switches.items()
    }
    with pytest.raises(AssertionError):
        await one_version_each(settings, late)


def in_force(fleet: Fleet, *names: str) -> dict[str, Any]:
    """`headwater folds list --json` by fold."""
    code, said, complained = fleet.run("folds", "list", "--json", names=names)
    assert code == 0, complained
    return {row["fold"]: row for row in json.loads(said)}


@pytest.mark.prove
async def test_updates_of_installations(fleet: Fleet) -> None:
    """New code alone takes over, on the record; an old installation does not start then, until it is told to."""
    settings = fleet.settings
    old = fleet.work("chain-1", "echo-1")
    await produce(settings, signals(0, 300), per_second=1e9)
    await settled(settings)
    chain = in_force(fleet, "chain-1")["chain"]
    assert (chain["in_force"], chain["installed"], chain["behind"]) == (1, [1], [])
    old.terminate()
    old.wait(15)

    fleet.work("chain-2", "echo-1")
    await produce(settings, signals(300, 300), per_second=1e9)
    await settled(settings)
    (gone,) = lines_of(fleet.said(), "versions.gone")
    assert (gone["in_force"], gone["takes_over"], gone["level"]) == (1, 2, "warning")
    chain = in_force(fleet, "chain-2")["chain"]
    assert (chain["in_force"], chain["by"], chain["behind"]) == (2, "headwater folds", [])
    assert chain["reason"] == "version 1 is not installed any more"
    assert all(place["since"] is not None and place["state"] == "refold" for place in chain["partitions"])

    refused = fleet.work("chain-1", "echo-1")
    assert await asyncio.to_thread(refused.wait, 60) == 1
    said = fleet.logs[-1].read_text()
    assert "fold chain: version 2 is in force, installed here: 1" in said
    assert "headwater folds cut-over chain --to 1 --at-once" in said

    # An operator without the version that is to be left behind can still go back.
    fleet.workers[1].terminate()
    fleet.workers[1].wait(15)
    code, said, complained = fleet.run(
        "folds",
        "cut-over",
        "chain",
        "--to",
        "1",
        "--at-once",
        "--yes",
        names=("chain-1", "echo-1"),
    )
    assert code == 0, complained
    assert "version 1 is decided, and no worker is up: start the workers now" in said
    fleet.work("chain-1", "echo-1")
    await produce(settings, signals(600, 300), per_second=1e9)
    await settled(settings)
    fleet.stop()
    seen, expected, switches = await account(settings)
    seen = [s for s in seen if dict(s[2])["ce_source"] != b"headwater/folds/silence"]
    expected = [s for s in expected if dict(s[2])["ce_source"] != b"headwater/folds/silence"]
    same(seen, expected)
    assert {tuple(f.version for f in facts if f.fold == "chain") for facts in switches.values()} == {(2, 1)}
