"""Event streams: from an acknowledged produce to the client, and what `serve` takes by how many follow.

Load and clients are processes of their own; the load writes to Kafka directly, so that what `serve`
takes is that of its streams. Clients all follow everything, which is the most that they can.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from streams.keys import create
from streams.settings import Settings
from tests.bench.figures import figure, quantiles, say
from tests.bench.ground import Ground, cpu_s, ground, python
from tests.streams.gateway.door import door

FOLLOWERS = (0, 1, 10, 100)
RATE = 500
SETTLE_S = 6.0
MEASURED_S = 15.0
PEER = "tests.bench.peers.following"


def run(rate: float = RATE, measured_s: float = MEASURED_S) -> dict[str, Any]:
    """CPU of `serve` in percent of one core, idle and under load, and latencies in ms, by followers."""
    found: dict[str, Any] = {}
    with ground() as place, place.topics("following", []) as settings:
        served = settings.model_copy(
            update={"kafka": settings.bootstrap, "data": Path(place.folder) / "door"}
        )
        key = create(served, "default", ["read"], "bench")
        for count in FOLLOWERS:
            with door(served) as url:
                found[str(count)] = _measure(place, settings, url, key, count, rate, measured_s)
                say(f"{count} followers: {found[str(count)]}")
    return {
        "load": f"{rate:g} events/s, all of them to each follower, {measured_s:g} s",
        "p99_of_10": figure(found["10"]["latency_ms"]["p99"], "ms", must=250, aim=50),
        "cpu_idle_of_100": figure(found["100"]["cpu_idle_percent"], "% of one core", must=10, aim=5),
        "followers": found,
    }


def _measure(
    place: Ground, settings: Settings, url: str, key: str, count: int, rate: float, measured_s: float
) -> dict[str, Any]:
    whole_s = 4 * SETTLE_S + 2 * measured_s
    serve = _serve(url)
    with place.engine(settings, python(PEER, "clients", url, key, count, whole_s)) as clients:
        time.sleep(SETTLE_S)
        idle = _cpu(serve, measured_s)
        with place.engine(settings, python(PEER, "load", rate, SETTLE_S + measured_s)) as load:
            time.sleep(SETTLE_S)
            busy = _cpu(serve, measured_s)
            acknowledged = _answer(load)
        resident = serve.memory_info().rss
        got = _answer(clients)
    waits = [
        1000 * (at - acknowledged[number]) for number, at in got["arrived"].items() if number in acknowledged
    ]
    assert got["messages"] == count * len(acknowledged), "each follower gets each event once"
    return {
        "cpu_idle_percent": idle,
        "cpu_busy_percent": busy,
        "latency_ms": quantiles(waits) if waits else None,
        "messages_per_s": round(count * rate),
        "resident_mb": round(resident / 1e6),
    }


def _serve(url: str) -> psutil.Process:
    port = int(url.rpartition(":")[2])
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return psutil.Process(connection.pid)
    raise RuntimeError(f"nobody listens at {url}")


def _cpu(process: psutil.Process, seconds: float) -> float:
    before = cpu_s(process)
    time.sleep(seconds)
    return round(100 * (cpu_s(process) - before) / seconds, 1)


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=120)
    if process.returncode != 0:
        raise RuntimeError(f"{process.args!r} ended with code {process.returncode}")
    answer: dict[str, Any] = json.loads(out)
    return answer
