"""From the produce call to one fold's output in the hands of a read_committed consumer, at an even load.

Load, engine and observer are processes of their own and nothing is pinned. Beside ours, in the same
run: a bare loop over the same transactions, and Quix Streams at its shortest commit interval.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from streams.settings import Settings
from tests.bench.figures import figure, middle, quantiles, say
from tests.bench.ground import PARTITIONS, Ground, cpu_s, ground, python
from tests.bench.peers import environment
from tests.bench.peers.load import KEYS
from tests.bench.peers.ours import Echo

RATE = 1_000
ROUNDS = 3
WARM_S = 10.0
MEASURED_S = 20.0
UP_S = 8.0
"""Time that an engine has to come up before the load begins."""
QUIX_COMMIT_S = 0.05
BARE_P50, BARE_P99 = 34, 80
"""What the bare loop took where the targets were set, in ms: a ratio holds on slower machines, too."""
PEERS = "tests.bench.peers"


def run(
    rate: float = RATE, warm_s: float = WARM_S, measured_s: float = MEASURED_S, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Latency quantiles in ms by engine, medians of rounds, with the CPU that broker and engine took."""
    environment.python()
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "bare": [], "quix": []}
    with ground() as place, tempfile.TemporaryDirectory(dir=place.folder) as folder:

        def once(name: str, number: int) -> dict[str, Any]:
            with place.topics(f"latency{number}{name}", [Echo()]) as settings:
                command = _command(name, settings, Path(folder))
                return _measure(place, settings, name, command, rate, warm_s, measured_s)

        once("bare", 0)  # until then the broker's JVM compiles, and who comes first would be the slowest
        for number in range(1, rounds + 1):
            for name, runs in found.items():
                runs.append(once(name, number))
    middles = {
        name: {q: middle([r[q] for r in runs]) for q in ("p50", "p90", "p99")} for name, runs in found.items()
    }
    ours, bare = middles["ours"], middles["bare"]
    return {
        "load": f"{rate:g} events/s, {KEYS} keys, {PARTITIONS} partitions, {measured_s:g} s, warm {warm_s:g} s",
        "p50": figure(ours["p50"], "ms", must=60, aim=15),
        "p99": figure(ours["p99"], "ms", must=180, aim=50),
        "p50_beside_bare": figure(ours["p50"] / bare["p50"], "times", must=60 / BARE_P50, aim=15 / BARE_P50),
        "p99_beside_bare": figure(ours["p99"] / bare["p99"], "times", must=180 / BARE_P99, aim=50 / BARE_P99),
        "engines": middles,
        "runs": found,
        "quix_commit_interval_s": QUIX_COMMIT_S,
        "peer_versions": environment.versions(),
    }


def _command(name: str, settings: Settings, folder: Path) -> Sequence[object]:
    if name == "ours":
        return python(f"{PEERS}.ours", "echo")
    if name == "bare":
        return python(f"{PEERS}.bare")
    return [
        environment.python(), "-m", f"{PEERS}.quix",
        "echo", settings.bootstrap, settings.namespace, folder, 0, QUIX_COMMIT_S,
    ]  # fmt: skip


def _measure(
    place: Ground,
    settings: Settings,
    name: str,
    command: Sequence[object],
    rate: float,
    warm_s: float,
    measured_s: float,
) -> dict[str, Any]:
    whole = warm_s + measured_s
    with place.engine(settings, command) as engine:
        time.sleep(UP_S)
        with (
            place.engine(settings, python(f"{PEERS}.observer", warm_s, measured_s)) as observer,
            place.engine(settings, python(f"{PEERS}.load", rate, whole + 5)) as load,
        ):
            time.sleep(warm_s)
            watched = {
                "engine": psutil.Process(engine.pid),
                "broker": psutil.Process(place.broker_pid),
                "load": psutil.Process(load.pid),
            }
            before = {who: cpu_s(process) for who, process in watched.items()}
            time.sleep(measured_s - 1)
            used = {
                who: round(100 * (cpu_s(process) - before[who]) / (measured_s - 1))
                for who, process in watched.items()
            }
            latencies: list[float] = json.loads(_answer(observer))
            sent = json.loads(_answer(load))
    if not latencies:
        raise RuntimeError(f"{name}: no output was seen")
    answer = {**quantiles(latencies), "outputs": len(latencies), "cpu_percent": used, "load": sent}
    say(f"{name}: {answer}")
    return answer


def _answer(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=60)
    if process.returncode != 0:
        raise RuntimeError(f"{process.args!r} ended with code {process.returncode}")
    return str(out)
