"""SIGKILL of reactors' workers while a real server counts: nothing is missing, nothing blindly repeated."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from schemas import events as e
from schemas import topics
from schemas.codec import Codec
from schemas.envelope import derived_id, new_id
from streams.admin import ensure_topics
from streams.broker import Broker
from streams.partitions.kafka_log import KafkaLog
from streams.settings import Settings
from tests.conftest import free_base_port
from tests.streams.gateway.serving import free_port
from tests.streams.reactors.findings import Findings, finding

ROOT = Path(__file__).parents[3]
STEPS = [
    "assign.fenced", "assign.ready", "batch.planned", "commit.sent", "commit.offsets",
    "commit.done", "effects.intended", "effects.acted", "effects.acted", "effects.acted",
]  # fmt: skip
WORKERS = 2
PATIENCE_S = 12.0
"""So long a worker may live."""


class Herd:
    """Workers that die at steps, and the server that they call."""

    def __init__(self, settings: Settings, kind: str, seed: int) -> None:
        self.settings = settings
        self.kills: Counter[str] = Counter()
        self.died_at = time.monotonic()
        self.journal = settings.data / "journal"
        self.port = free_port()
        self._kind = kind
        self._random = random.Random(seed)
        self._steps: list[str] = []
        self._log = (settings.data / "workers.log").open("ab")
        self._workers: list[tuple[subprocess.Popen[bytes], str | None]] = []
        self._server = self._spawn("tests.streams.reactors.target", str(self.port), str(self.journal))

    def _spawn(self, *command: str, crash_at: str = "") -> subprocess.Popen[bytes]:
        settings = self.settings
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ
            | {
                "HEADWATER_DATA": str(settings.data),
                "HEADWATER_PORT": str(settings.port),
                "HEADWATER_KAFKA": settings.bootstrap,
                "HEADWATER_NAMESPACE": settings.namespace,
                "HEADWATER_PARTITIONS": str(settings.partitions),
                "HEADWATER_WEBHOOK_NETWORKS": "127.0.0.0/8",
                "HEADWATER_LOG_LEVEL": "WARNING",
                "HEADWATER_CRASH_AT": crash_at,
            },
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def worker(self, *, mortal: bool) -> None:
        """Start one, which dies at a step if it is mortal."""
        step, crash_at = None, ""
        if mortal:
            if not self._steps:
                self._steps = self._random.sample(STEPS, len(STEPS))
            step = self._steps.pop()
            # A worker takes four partitions or more at its start; the other steps come with the work.
            most = 4 if step.startswith("assign") else 40
            crash_at = f"{step}:{self._random.randint(1, most)}"
        process = self._spawn("tests.streams.reactors.kill_worker", self._kind, crash_at=crash_at)
        self._workers.append((process, step))

    def tend(self, *, mortal: bool) -> None:
        """Replace the dead."""
        for process, step in list(self._workers):
            code = process.poll()
            if code is not None:
                assert code == -signal.SIGKILL, f"a worker ended by itself with {code}: see {self._log.name}"
                self._workers.remove((process, step))
                self.kills[step or "random"] += 1
                self.died_at = time.monotonic()
                self.worker(mortal=mortal)

    def kill_one(self) -> None:
        """SIGKILL one, wherever it is."""
        self._random.choice(self._workers)[0].kill()

    def settle(self) -> None:
        """No more dying."""
        for process, step in list(self._workers):
            if step is not None:
                process.kill()
                process.wait()
                self._workers.remove((process, step))
                self.worker(mortal=False)

    def stop(self) -> None:
        """End all."""
        processes = [self._server, *(process for process, _ in self._workers)]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()


@dataclass
class Seen:
    """What the log says of effects, by effect id."""

    outcomes: dict[str, str] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    """Attempts after which nobody knew."""
    letters: Counter[str] = field(default_factory=Counter)
    """Dead letters, by the finding's event id."""


async def read(settings: Settings) -> Seen:
    """All of it, as a read_committed reader sees it."""
    log, codec, seen = KafkaLog(settings, "observer"), Codec(), Seen()
    await log.start()
    for partition in range(settings.partitions):
        for topic in (topics.EFFECTS.name, topics.DEAD_LETTERS.name):
            first, end = await log.bounds(topic, partition)
            async for batch in log.read(topic, partition, first, end):
                for record in batch:
                    event = codec.decode(record.value)
                    if isinstance(event, e.EffectIntended):
                        seen.attempts[event.effect_id] += 1
                    elif isinstance(event, e.EffectDeferred):
                        assert event.error_type == "OutcomeUnknown", event
                        seen.unknown[event.effect_id] += 1
                    elif isinstance(event, e.EffectCompleted):
                        assert event.effect_id not in seen.outcomes, "an effect was completed twice"
                        seen.outcomes[event.effect_id] = event.outcome
                    elif isinstance(event, e.DeadLetter):
                        seen.letters[event.headers["ce_id"].decode()] += 1
    await log.close()
    return seen


async def register(settings: Settings, url: str, *, idempotent: bool) -> str:
    """A webhook, written as the gateway would."""
    event = e.WebhookRegistered(
        webhook_id=new_id(), url=url, types=["AnomalyDetected"], idempotent=idempotent
    )
    async with Findings(settings, 1) as writer:
        await writer.write([(new_id(), event)])
    return event.webhook_id


@asynccontextmanager
async def herd_of(settings: Settings, kind: str, seed: int) -> AsyncIterator[tuple[Herd, str, str]]:
    """Two workers, a server, and two webhooks: one that may be asked twice, and one that may not."""
    await ensure_topics(settings)
    herd = Herd(settings, kind, seed)
    try:
        again = await register(settings, f"http://127.0.0.1:{herd.port}/ok/again", idempotent=True)
        once = await register(settings, f"http://127.0.0.1:{herd.port}/slow/0.02/once", idempotent=False)
        for _ in range(WORKERS):
            herd.worker(mortal=False)
        deadline = time.monotonic() + 60
        while (
            await committed(settings) < settings.partitions
        ):  # else they would begin after the first findings
            assert time.monotonic() < deadline
            await asyncio.sleep(0.3)
        yield herd, again, once
    finally:
        herd.stop()


async def committed(settings: Settings) -> int:
    """Partitions of findings in which the notifier has a position."""
    log = KafkaLog(settings, "reactors.notifier")
    await log.start()
    found = [await log.committed(topics.ANOMALIES.name, p) for p in range(settings.partitions)]
    await log.close()
    return sum(offset is not None for offset in found)


async def feed(herd: Herd, kills: int, seed: int, broker: Broker | None) -> int:
    """Findings in transactions, some of them aborted, until so many workers have died; how many there were."""
    rng, written = random.Random(seed), 0
    herd.kill_one()
    async with Findings(herd.settings) as writer:
        while herd.kills.total() < kills:
            count = rng.randint(1, 8)
            await writer.write([(f"f-{n}", finding(n)) for n in range(written, written + count)])
            written += count
            if rng.random() < 0.2:
                await writer.abort([(f"aborted-{written}", finding(written))])
            await asyncio.sleep(rng.uniform(0.02, 0.3))
            herd.tend(mortal=True)
            if time.monotonic() - herd.died_at > PATIENCE_S:
                herd.kill_one()  # it has no step before it that it would reach
            if broker is not None and herd.kills.total() == kills // 2:
                broker.kill()
                await broker.stop()
                await broker.start()
                broker = None
    return written


async def deliveries(herd: Herd) -> Counter[str]:
    """Messages at the server, by path's end and idempotency key."""
    lines = herd.journal.read_text().splitlines()
    return Counter(f"{path.rsplit('/', 1)[1]} {key}" for path, key in (line.split() for line in lines))


async def scenario(
    settings: Settings, *, kills: int, seed: int, broker: Broker | None = None
) -> Counter[str]:
    """Kill, let it settle, and compare what the server counted with what the log says."""
    async with herd_of(settings, "careful", seed) as (herd, again, once):
        written = await feed(herd, kills, seed, broker)
        herd.settle()
        deadline = time.monotonic() + 120
        while len((seen := await read(settings)).outcomes) < 2 * written:
            herd.tend(mortal=False)
            assert time.monotonic() < deadline, f"{len(seen.outcomes)} of {2 * written} effects are completed"
            await asyncio.sleep(1)
        counted = await deliveries(herd)
    keys = {
        (path, n): derived_id("default", "headwater/folds/anomaly", f"f-{n}", "notifier", webhook)
        for path, webhook in (("again", again), ("once", once))
        for n in range(written)
    }
    assert set(seen.outcomes) == set(keys.values()), "every finding, and no aborted one, has its two effects"
    for (path, n), key in keys.items():
        count, outcome = counted[f"{path} {key}"], seen.outcomes[key]
        assert seen.attempts[key] == seen.unknown[key] + 1, (
            "there is another attempt only where one was unknown"
        )
        assert count <= seen.attempts[key], "nothing is called without an intent"
        if path == "again":
            assert outcome == "succeeded"
            assert count >= 1, f"finding {n} is missing at the server"
        elif outcome == "succeeded":
            assert count == 1, f"finding {n} was delivered {count} times"
        else:
            assert outcome == "unknown"
            assert count <= 1, f"finding {n} was delivered {count} times"
            assert seen.letters[f"f-{n}"] == 1, "a person is told"
    repeated = sum(count - 1 for key, count in counted.items() if key.startswith("again"))
    unknown = sum(outcome == "unknown" for outcome in seen.outcomes.values())
    print(f"{written} findings, {dict(herd.kills)}, {repeated} delivered again, {unknown} unknown")
    return herd.kills


async def test_six_kills(settings: Settings) -> None:
    """After six kills every finding is delivered; twice only where a death left its outcome unknown."""
    assert (await scenario(settings, kills=6, seed=1)).total() >= 6


async def test_who_acknowledges_first_is_caught(settings: Settings) -> None:
    """The control: a worker that commits before it calls loses findings when it is killed, and this test sees it."""
    async with herd_of(settings, "careless", 1) as (herd, _, _):
        async with Findings(settings) as writer:
            written, deadline = 0, time.monotonic() + 60
            while herd.kills.total() < 4:
                await writer.write([(f"f-{n}", finding(n)) for n in range(written, written + 20)])
                written += 20
                await asyncio.sleep(0.05)
                if written % 200 == 0:
                    herd.kill_one()
                herd.tend(mortal=False)
                assert time.monotonic() < deadline
        while await lagging(settings):  # noqa: ASYNC110 - of others' positions nobody is told
            await asyncio.sleep(0.5)
        await asyncio.sleep(2)
        counted = await deliveries(herd)
    delivered = sum(key.startswith("again") for key in counted)
    assert delivered < written, "a control that loses nothing shows nothing"


async def lagging(settings: Settings) -> bool:
    """Whether the notifier has findings to read."""
    log = KafkaLog(settings, "reactors.notifier")
    await log.start()
    try:
        for partition in range(settings.partitions):
            _, end = await log.bounds(topics.ANOMALIES.name, partition)
            if (await log.committed(topics.ANOMALIES.name, partition) or 0) < end:
                return True
        return False
    finally:
        await log.close()


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(3))
async def test_thirty_kills(tmp_path: Path, seed: int) -> None:
    """The same with thirty kills, and one of the broker."""
    settings = Settings(data=tmp_path, port=free_base_port(), partitions=4, webhook_networks="127.0.0.0/8")
    broker = Broker(settings)
    await broker.start()
    try:
        kills = await scenario(settings, kills=30, seed=seed, broker=broker)
    finally:
        await broker.stop()
    assert kills.total() >= 30
