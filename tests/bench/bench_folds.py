"""Fold throughput beside other engines on the same core, and the runner's overhead over the pure compute.

Each run has its own topics, preloaded; engines take turns (A B C A B C …), medians are compared.
The clock starts at an engine's first record and ends when the last output is visible to a
read_committed reader, which is when the last input was committed, too.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from streams.settings import Settings
from tests.bench.figures import figure, middle, say
from tests.bench.ground import PARTITIONS, Ground, cpu_s, ground, preload, python, taking_turns
from tests.bench.job import AGENTS, EVERY, TOOLS, records
from tests.bench.peers import environment
from tests.bench.peers.first import First
from tests.bench.peers.ours import Job

EVENTS = 192_000
FAUST_EVENTS = 60_000
DURABLE_EVENTS = 4_800
ROUNDS = 3
DEADLINE_S = 180.0
PEERS = "tests.bench.peers"
Command = Callable[[Settings, Path, int], Sequence[object]]


def run(events: int = EVENTS, faust_events: int = FAUST_EVENTS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Events a second of each engine, ratios, and the runner's overhead over the pure compute."""
    engines: dict[str, tuple[int, Command]] = {
        "ours": (events, lambda _s, _f, _n: python(f"{PEERS}.ours", "job")),
        "quix_memory": (events, _quix("memory")),
        "quix_store": (events, _quix("store")),
        "faust_memory": (faust_events, _faust("memory")),
        "faust_table": (faust_events, _faust("table")),
    }
    environment.python()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    overheads: list[float] = []
    with ground() as place:
        place.pin([place.other])
        _measure(place, "warm-up", 48_000, engines["ours"][1])
        for _ in range(rounds):
            for name, (count, command) in engines.items():
                runs[name].append(_measure(place, name, count, command))
            overheads.append(_overhead(place, events, engines["ours"][1]))
        durable = _measure(place, "quix_durable", DURABLE_EVENTS, _quix("durable"))
    return _report(runs, overheads, durable)


def _report(
    runs: dict[str, list[dict[str, float]]], overheads: list[float], durable: dict[str, float]
) -> dict[str, Any]:
    rate = {name: middle([r["events_per_s"] for r in of]) for name, of in runs.items()}
    cpu = {name: middle([r["cpu_us_per_event"] for r in of]) for name, of in runs.items()}
    return {
        "job": f"{TOOLS} keys, {AGENTS} agents in each, {PARTITIONS} partitions, 1 output in {EVERY} events",
        "events_per_s": {n: round(r) for n, r in rate.items()}
        | {"quix_durable": round(durable["events_per_s"])},
        "cpu_us_per_event": {n: round(c, 1) for n, c in cpu.items()},
        "beside_quix": figure(rate["ours"] / rate["quix_store"], "times", must=1.3, aim=2, least=True),
        "beside_quix_with_nothing_durable": figure(rate["ours"] / rate["quix_memory"], "times"),
        "beside_quix_with_whole_state_durable": figure(rate["ours"] / durable["events_per_s"], "times"),
        "beside_faust": figure(rate["ours"] / rate["faust_table"], "times", must=5, aim=10, least=True),
        "beside_faust_with_nothing_durable": figure(rate["ours"] / rate["faust_memory"], "times"),
        "overhead": figure(middle(overheads), "% of the pure compute's CPU time", must=30, aim=10),
        "peer_versions": environment.versions(),
        "runs": {n: [round(r["events_per_s"]) for r in of] for n, of in runs.items()}
        | {"overhead": [round(o, 1) for o in overheads]},
    }


def _quix(way: str) -> Command:
    def command(settings: Settings, folder: Path, outputs: int) -> Sequence[object]:
        return [
            environment.python(), "-m", f"{PEERS}.quix",
            way, settings.bootstrap, settings.namespace, folder, outputs, 5.0,
        ]  # fmt: skip

    return command


def _faust(way: str) -> Command:
    def command(settings: Settings, folder: Path, _outputs: int) -> Sequence[object]:
        return [
            environment.python(), "-m", f"{PEERS}.faust_app", way, settings.bootstrap, settings.namespace, folder,
        ]  # fmt: skip

    return command


_number = 0


@contextlib.contextmanager
def _engine(place: Ground, events: int, command: Command) -> Iterator[tuple[Settings, subprocess.Popen[str]]]:
    """An engine on topics of its own, with as many events before it."""
    global _number  # noqa: PLW0603 - each run needs a namespace that never was
    _number += 1
    with (
        tempfile.TemporaryDirectory(dir=place.folder) as folder,
        place.topics(f"run{_number}", [Job(First())]) as settings,
    ):
        preload(settings, "signals", records(events))
        with place.engine(
            settings, command(settings, Path(folder), events // EVERY), [place.core]
        ) as process:
            yield settings, process


def _measure(place: Ground, name: str, events: int, command: Command) -> dict[str, float]:
    """One run of one engine."""
    with _engine(place, events, command) as (settings, process):
        begun: dict[str, float] = {}
        threading.Thread(target=_listen, args=(process, begun), daemon=True).start()
        ended, cpu = until_visible(settings, events // EVERY, process)
    return _said(name, events, ended - begun["first"], cpu - begun["cpu"])


def _overhead(place: Ground, events: int, command: Command) -> float:
    """Percent of CPU time that an event takes longer in an engine than in a plain loop, while they take turns."""
    # More than the engine needs: the plain loop is the faster one, and must not run out before it.
    loop = python(f"{PEERS}.pure", 2 * events)
    with place.engine(place.settings(""), loop, [place.core]) as plain:
        assert plain.stdout is not None
        plain.stdout.readline()
        with _engine(place, events, command) as (settings, process):
            begun: dict[str, float] = {}
            _listen(process, begun)
            with taking_turns(process.pid, plain.pid):
                _, cpu = until_visible(settings, events // EVERY, process)
        plain.send_signal(signal.SIGTERM)
        pure = json.loads(plain.stdout.readline())["cpu_us_per_event"]
    ours = (cpu - begun["cpu"]) / events * 1e6
    say(f"in turns: pure {pure:.1f} µs CPU an event, engine {ours:.1f}")
    return float(100 * (ours / pure - 1))


def _said(name: str, events: int, wall_s: float, used_s: float) -> dict[str, float]:
    answer = {"events_per_s": events / wall_s, "cpu_us_per_event": used_s / events * 1e6}
    say(f"{name}: {answer['events_per_s']:,.0f} events/s, {answer['cpu_us_per_event']:.1f} µs CPU an event")
    return answer


def _listen(process: subprocess.Popen[str], begun: dict[str, float]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("first "):
            begun["cpu"] = cpu_s(psutil.Process(process.pid))
            begun["first"] = float(line.split()[1])
            return


def until_visible(settings: Settings, outputs: int, process: subprocess.Popen[str]) -> tuple[float, float]:
    """The moment at which the last output was read, and the engine's CPU seconds then."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap,
            "group.id": "bench-observer",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 100,
        }
    )
    name = settings.named("anomalies")
    consumer.assign([TopicPartition(name, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
    seen = 0
    moment = time.monotonic()
    used = 0.0
    deadline = moment + DEADLINE_S
    measured = psutil.Process(process.pid)
    try:
        while seen < outputs:
            batch = consumer.consume(1000, timeout=0.05)
            if batch:
                moment = time.monotonic()
                seen += sum(1 for m in batch if m.error() is None)
            if process.poll() is None:
                used = cpu_s(measured)
            if time.monotonic() > deadline or (process.poll() not in (None, 0) and not batch):
                raise RuntimeError(
                    f"{process.args!r}: {seen} of {outputs} outputs, exit code {process.returncode}"
                )
    finally:
        consumer.close()
    return moment, used
