"""One, two and four worker processes on this machine's cores, and what a model makes of it up to 64.

The workers come up, share the partitions out and are stopped; the events are written; then all go on at
once. Nothing is pinned. From one worker's run the model takes what an event costs a worker and the
broker, in CPU. Workers share nothing but the log, so n of them do n times the work of one, until the
cores are used up or the broker, whose threads are taken to spread over all cores, has none left:

    rate(n, cores) = min(n / worker, cores / (worker + broker))

What was measured with two and four is set beside what the model says of these cores; the curve to 64
workers (and partitions) is what it says of a machine with a core for each and some for the broker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from typing import Any

import psutil

from streams.settings import Settings
from tests.bench.bench_folds import until_visible
from tests.bench.figures import figure, middle, say
from tests.bench.ground import Ground, Row, cpu_s, ground, preload, python
from tests.bench.job import EVERY, records
from tests.bench.peers.first import First
from tests.bench.peers.ours import Job

EVENTS = 96_000
WORKERS = (1, 2, 4)
CURVE = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 3
UP_S = 12.0
"""Time in which workers have come up and shared the partitions out."""


def run(events: int = EVENTS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Events a second by number of workers, medians of rounds, and the modelled ones beside."""
    cores = len(os.sched_getaffinity(0))
    runs: dict[int, list[dict[str, float]]] = {workers: [] for workers in WORKERS}
    rows = list(records(events))
    with ground() as place:

        def once(name: str, workers: int) -> dict[str, float]:
            with place.topics(name, [Job(First())]) as settings:
                return _measure(place, settings, workers, rows)

        once("warm-up", 1)
        for number in range(rounds):
            for workers, of in runs.items():
                of.append(once(f"scale{number}x{workers}", workers))
    measured = {n: middle([r["events_per_s"] for r in of]) for n, of in runs.items()}
    worker = middle([r["worker_us"] for r in runs[1]])
    broker = middle([r["broker_us"] for r in runs[1]])

    def rate(workers: int, on: float) -> float:
        return min(workers / worker, on / (worker + broker)) * 1e6

    return {
        "cores": cores,
        "cpu_us_per_event": {"worker": round(worker, 1), "broker": round(broker, 1)},
        "measured": {n: round(v) for n, v in measured.items()},
        "modelled": {n: round(rate(n, cores)) for n in WORKERS},
        "two_beside_one": figure(measured[2] / measured[1], "times"),
        "four_beside_one": figure(measured[4] / measured[1], "times"),
        "model_beside_measured": {n: round(rate(n, cores) / measured[n], 2) for n in WORKERS},
        "curve": {n: round(rate(n, n * (1 + broker / worker))) for n in CURVE},
        "cores_of_the_curve": {n: round(n * (1 + broker / worker), 1) for n in CURVE},
        "runs": {n: [round(r["events_per_s"]) for r in of] for n, of in runs.items()},
    }


def _measure(place: Ground, settings: Settings, workers: int, rows: list[Row]) -> dict[str, float]:
    """Events a second from the start signal until the last output is visible, and CPU an event."""
    with contextlib.ExitStack() as stack:
        engines = [
            stack.enter_context(place.engine(settings, python("tests.bench.peers.ours", "job")))
            for _ in range(workers)
        ]
        time.sleep(UP_S)
        stack.callback(_signal, engines, signal.SIGCONT)
        _signal(engines, signal.SIGSTOP)
        preload(settings, "signals", rows)
        watched = [psutil.Process(engine.pid) for engine in engines]
        broker = psutil.Process(place.broker_pid)
        before, brokers = sum(map(cpu_s, watched)), cpu_s(broker)
        began = time.monotonic()
        _signal(engines, signal.SIGCONT)
        ended = until_visible(settings, len(rows) // EVERY, engines[0])[0]
        answer = {
            "events_per_s": len(rows) / (ended - began),
            "worker_us": (sum(map(cpu_s, watched)) - before) / len(rows) * 1e6,
            "broker_us": (cpu_s(broker) - brokers) / len(rows) * 1e6,
        }
    say(f"{workers} workers: " + ", ".join(f"{name} {value:,.1f}" for name, value in answer.items()))
    return answer


def _signal(engines: list[subprocess.Popen[str]], what: signal.Signals) -> None:
    for engine in engines:
        engine.send_signal(what)


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
