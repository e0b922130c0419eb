"""SIGKILL of workers and views at named steps and at random, and of the broker: nothing lost or doubled."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from streams.admin import declared, ensure_topics
from streams.broker import Broker
from streams.settings import Settings
from tests.conftest import free_base_port
from tests.postgres import Cluster
from tests.streams.kill_worker import folds
from tests.streams.undisturbed import compare, inputs, lag, produce, views_have_read_it

ROOT = Path(__file__).parents[2]
STEPS = [
    "rebalance.revoked",
    "rebalance.assigned",
    "assign.begin",
    "assign.fenced",
    "restore.loaded",
    "restore.folded",
    "assign.ready",
    "batch.folded",
    "batch.snapshot",
    "commit.begun",
    "commit.sent",
    "commit.written",
    "commit.offsets",
    "commit.done",
    "batch.committed",
]
ONCE = {"rebalance.revoked", "rebalance.assigned", "restore.loaded", "restore.folded"}
"""Steps that a worker takes once or so before somebody else's death disturbs it."""
WORKERS = 3


class Herd:
    """Worker processes, some of which are told at which step to die."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings = settings
        self.kills: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._steps: list[str] = []
        self._log = (settings.data / "workers.log").open("ab")
        self._processes: list[tuple[subprocess.Popen[bytes], str | None]] = []
        self._views = self._start("views")

    def spawn(self, step: str | None = None) -> None:
        """Start one; `step` is where it dies."""
        at = ""
        if step is not None:
            at = f"{step}:{1 if step in ONCE else self._random.randint(1, 6)}"
        self._processes.append((self._start("folds", at), step))

    def _start(self, role: str, crash_at: str = "") -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.streams.kill_worker", role],
            env=os.environ
            | {
                "HEADWATER_DATA": str(self.settings.data),
                "HEADWATER_PORT": str(self.settings.port),
                "HEADWATER_DATABASE": self.settings.database or "",
                "HEADWATER_LOG_LEVEL": "WARNING",
                "HEADWATER_CRASH_AT": crash_at,
            },
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def tend(self) -> None:
        """Replace the dead: each successor dies at another step, until all steps had their turn."""
        for process, step in list(self._processes):
            code = process.poll()
            if code is None:
                continue
            assert code == -signal.SIGKILL, f"a worker ended by itself with {code}: see {self._log.name}"
            self._processes.remove((process, step))
            if step is not None:
                self.kills[step] += 1
            self.spawn(self.next_step())
        assert self._views.poll() is None, f"the views process ended by itself: see {self._log.name}"

    def kill_views(self) -> None:
        """SIGKILL the views process, wherever it is."""
        self._views.kill()
        self._views.wait()
        self.kills["views"] += 1
        self._views = self._start("views")

    def kill_one(self) -> None:
        """SIGKILL one, wherever it is."""
        process, _ = self._random.choice(self._processes)
        process.kill()
        process.wait()
        self.kills["random"] += 1
        self._processes = [(p, s) for p, s in self._processes if p is not process]
        self.spawn(self.next_step())

    def next_step(self) -> str:
        """Where the next worker is to die."""
        if not self._steps:
            self._steps = self._random.sample(STEPS, len(STEPS))
        return self._steps.pop()

    def settle(self) -> None:
        """No more dying at steps: replace those that were told to."""
        for process, step in self._processes:
            if step is not None:
                process.kill()
                process.wait()
        self._processes = [(p, s) for p, s in self._processes if s is None]
        while len(self._processes) < WORKERS:
            self.spawn()

    def stop(self) -> None:
        """End all, cleanly."""
        processes = [self._views, *(process for process, _ in self._processes)]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()


async def scenario(settings: Settings, broker: Broker, *, kills: int, events: int, seed: int) -> Counter[str]:
    """Feed, kill, let it settle, and compare with an undisturbed run."""
    made = inputs(events, seed)
    herd = Herd(settings, seed)
    rng = random.Random(seed + 1)
    for _ in range(WORKERS):
        herd.spawn(herd.next_step())
    try:
        feeding = asyncio.create_task(produce(settings, made, per_second=events / (kills * 1.2)))
        broker_killed = False
        while herd.kills.total() < kills:
            await asyncio.sleep(rng.uniform(0.3, 1.2))
            herd.tend()
            if rng.random() < 0.06:
                herd.kill_one()
            if rng.random() < 0.06:
                herd.kill_views()
            if not broker_killed and herd.kills.total() >= kills // 2:
                broker_killed = True
                broker.kill()
                await broker.stop()
                await broker.start()
        await feeding
        herd.settle()
        deadline = time.monotonic() + 120
        while await lag(settings):
            herd.tend()
            assert time.monotonic() < deadline, f"still lagging: {await lag(settings)}"
            await asyncio.sleep(0.5)
        await views_have_read_it(settings, deadline)
    finally:
        herd.stop()
    await compare(settings, made)
    return herd.kills


async def run_with_broker(
    tmp_path: Path, *, kills: int, events: int, seed: int, database: str | None = None
) -> Counter[str]:
    """A broker of its own, since it is killed too."""
    settings = Settings(data=tmp_path, port=free_base_port(), database=database)
    broker = Broker(settings)
    await broker.start()
    try:
        await ensure_topics(settings, declared(settings, folds()))
        return await scenario(settings, broker, kills=kills, events=events, seed=seed)
    finally:
        await broker.stop()


async def test_four_kills(tmp_path: Path) -> None:
    """After four kills of workers and views and one of the broker, all is as if nothing had happened."""
    kills = await run_with_broker(tmp_path, kills=4, events=2_400, seed=1)
    print(dict(kills))
    assert kills.total() >= 4


@pytest.mark.prove
async def test_ten_kills_with_views_in_postgresql(tmp_path: Path, postgres: Cluster) -> None:
    """The same with views in PostgreSQL: they come to the rows that SQLite has of an undisturbed run."""
    kills = await run_with_broker(tmp_path, kills=10, events=6_000, seed=1, database=postgres.new_schema())
    assert kills.total() >= 10


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(4))
async def test_a_hundred_kills(tmp_path: Path, seed: int) -> None:
    """A hundred kills, every named step among them, leave no trace in outputs or state."""
    kills = await run_with_broker(tmp_path, kills=100, events=40_000, seed=seed)
    print(dict(kills))
    assert kills.total() >= 100
    assert not set(STEPS) - set(kills), "not every step had its turn"
