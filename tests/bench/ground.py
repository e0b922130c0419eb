"""The ground on which engines are compared: a broker, topics of their own for each run, pinned processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Producer

from processors.fold import Fold
from streams.admin import admin_client, declared, ensure_topics
from streams.broker import Broker, port_is_free
from streams.settings import Settings
from tests.bench.figures import say

ROOT = Path(__file__).parents[2]
PARTITIONS = 8
_TURN_S = 0.5
"""Long beside what it takes to fill the caches anew, short beside a session's timeout."""
Row = tuple[str, bytes, list[tuple[str, bytes]]]


class Ground:
    """A running broker; `core` is the engines', `other` the broker's and the observer's."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        cores = sorted(os.sched_getaffinity(0))
        self.core = cores[0]
        self.other = cores[-1]
        self._broker = Broker(self.settings(""))

    def settings(self, namespace: str) -> Settings:
        """Those of one run."""
        return Settings(
            data=self.folder, port=self.port, namespace=namespace, partitions=PARTITIONS, raw_partitions=1
        )

    def start(self) -> None:
        """Start the broker."""
        asyncio.run(self._broker.start())

    def stop(self) -> None:
        """Stop it."""
        asyncio.run(self._broker.stop())

    @property
    def broker_pid(self) -> int:
        """The broker's process id."""
        assert self._broker.pid is not None
        return self._broker.pid

    def pin(self, cores: Iterable[int]) -> None:
        """Keep the broker, with all its threads, and this process on these cores."""
        for thread in psutil.Process(self.broker_pid).threads():
            with contextlib.suppress(ProcessLookupError):  # one that has just ended
                os.sched_setaffinity(thread.id, cores)
        os.sched_setaffinity(0, cores)

    @contextlib.contextmanager
    def topics(self, namespace: str, folds: Sequence[Fold[Any]]) -> Iterator[Settings]:
        """Every topic that a run needs, gone after it."""
        settings = self.settings(namespace)
        specs = declared(settings, folds)
        asyncio.run(ensure_topics(settings, specs))
        yield settings
        asyncio.run(_delete(settings, [settings.named(s.name) for s in specs]))

    def environment(self, settings: Settings) -> dict[str, str]:
        """What a child process needs to know."""
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HEADWATER_DATA": str(settings.data),
            "HEADWATER_PORT": str(settings.port),
            "HEADWATER_NAMESPACE": settings.namespace,
            "HEADWATER_PARTITIONS": str(settings.partitions),
            "HEADWATER_RAW_PARTITIONS": str(settings.raw_partitions),
            "HEADWATER_LOG_LEVEL": "ERROR",
        }

    @contextlib.contextmanager
    def engine(
        self, settings: Settings, command: Sequence[object], cores: Iterable[int] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """A program of `peers/` in its own process, stopped at the end."""
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=self.environment(settings),
            stdout=subprocess.PIPE,
            text=True,
        )
        if cores is not None:
            os.sched_setaffinity(process.pid, cores)
        try:
            yield process
        finally:
            stop(process)


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """A broker in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        cores = os.sched_getaffinity(0)
        place = Ground(Path(folder), free_port())
        place.start()
        try:
            yield place
        finally:
            place.stop()
            os.sched_setaffinity(0, cores)


def free_port() -> int:
    """A base port whose doors (+0, +92, +93) are free: HEADWATER_BENCH_PORT, or one from 7900 on."""
    for base in range(int(os.environ.get("HEADWATER_BENCH_PORT", "7900")), 60_000, 100):
        if all(port_is_free(base + door) for door in (0, 92, 93)):
            return base
    raise RuntimeError("no free ports")


def stop(process: subprocess.Popen[str], deadline_s: float = 15.0) -> None:
    """SIGTERM, and SIGKILL for what does not end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            say(f"{process.args!r} had to be killed")
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextlib.contextmanager
def taking_turns(one: int, other: int) -> Iterator[None]:
    """Let one of two processes run at a time, half a second each: both meet the same moods of the machine."""
    over = threading.Event()

    def turns() -> None:
        running, waiting = one, other
        while not over.wait(_TURN_S):
            os.kill(running, signal.SIGSTOP)
            os.kill(waiting, signal.SIGCONT)
            running, waiting = waiting, running

    os.kill(other, signal.SIGSTOP)
    thread = threading.Thread(target=turns)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for process in (one, other):
            os.kill(process, signal.SIGCONT)


def preload(settings: Settings, topic: str, rows: Iterable[Row]) -> None:
    """Write rows, in order for each key, partitioned as our own producer does."""
    producer = Producer(
        {
            "bootstrap.servers": settings.bootstrap,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "batch.num.messages": 2_000,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    name = settings.named(topic)
    for number, (key, value, headers) in enumerate(rows):
        producer.produce(name, value, key, headers=[*headers])
        if number % 1_000 == 0:
            producer.poll(0)
    left = producer.flush(60)
    if left:
        raise RuntimeError(f"{left} records could not be written to {name}")


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of all its threads so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def python(module: str, *arguments: object) -> list[object]:
    """A program of ours in this interpreter."""
    return [sys.executable, "-m", module, *arguments]


async def _delete(settings: Settings, names: list[str]) -> None:
    async with admin_client(settings) as client:
        await client.delete_topics(names)
