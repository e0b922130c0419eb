"""One event every 50 ms beside a key that floods the same partition: how long it takes, with and without.

A door of its own process, two keys of one project. The flood is one client process that ignores
Retry-After. With the default quotas the flood is refused most of the time; without them what bounds
it is its share of the door alone. Also how much a door takes at all, by which the default was chosen.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from streams.keys import create
from streams.settings import Settings
from tests.bench.figures import figure, middle, quantiles, say
from tests.bench.ground import ground
from tests.streams.gateway.door import door
from tests.streams.gateway.flood import calm, flooding, outcome

ALONE_S = 8.0
FLOOD_S = 12.0
UP_S = 1.5
ROUNDS = 3
FLOODS = ((1, 1_000), (32, 100), (32, 1_000), (8, 10_000))
"""Connections, and events in each of their lists."""
WITHOUT = {"HEADWATER_QUOTA_EVENTS_PER_SECOND": "0", "HEADWATER_QUOTA_BYTES_PER_SECOND": "0"}
MUST_TIMES = 40.0


def run() -> dict[str, Any]:
    """Latencies in ms of the calm key, by flood; events/s that were accepted of the flood."""
    with ground() as place, place.topics("quota", []) as settings:
        served = settings.model_copy(
            update={"kafka": settings.bootstrap, "data": Path(place.folder) / "door"}
        )
        with door(served) as url:
            limited = _against(url, served, "limited")
        with door(served, **WITHOUT) as url:
            unlimited = _against(url, served, "unlimited")
            capacity = _capacity(url, served)
    worst = max(r["p99"] for r in limited["floods"].values())
    return {
        "p99_beside_alone": figure(worst / limited["alone"]["p99"], "times", must=MUST_TIMES),
        "default_quotas": limited,
        "no_quotas": unlimited,
        "capacity": capacity,
    }


def _against(url: str, settings: Settings, name: str) -> dict[str, Any]:
    quiet = create(settings, "acme", ["produce"], f"calm {name}")
    asyncio.run(calm(url, quiet, 2))  # the door connects, and the broker's JVM compiles
    alone, floods = [], {}
    for connections, events in FLOODS:
        runs = []
        for number in range(ROUNDS):
            loud = create(settings, "acme", ["produce"], f"{name} {connections} {events} {number}")
            alone.append(quantiles(_ms(asyncio.run(calm(url, quiet, ALONE_S / len(FLOODS)))[0])))
            with flooding(url, loud, FLOOD_S, connections, events) as flood:
                time.sleep(UP_S)
                found = asyncio.run(calm(url, quiet, FLOOD_S - 2 * UP_S))
                answers, seconds = outcome(flood)
            accepted = round(answers.get("200", 0) * events / seconds)
            runs.append(quantiles(_ms(found.latencies_s)) | {"accepted_per_s": accepted, "answers": answers})
            assert not found.refused, found.refused
        floods[f"{connections} x {events}"] = _middles(runs)
        say(f"{name} {connections} x {events}: {floods[f'{connections} x {events}']}")
    return {"alone": _middles(alone), "floods": floods}


def _capacity(url: str, settings: Settings) -> dict[str, Any]:
    """What one door takes: lists, single events, and large ones."""
    found = {}
    for name, connections, events in (("lists of 1,000", 4, 1_000), ("single events", 32, 1)):
        key = create(settings, "acme", ["produce"], f"capacity {name}")
        with flooding(url, key, 8.0, connections, events) as flood:
            answers, seconds = outcome(flood)
            found[name] = round(answers["200"] * events / seconds)
    return {"events_per_s": found}


def _ms(seconds: list[float]) -> list[float]:
    return [1000 * s for s in seconds]


def _middles(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the figures of several runs; answers are those of the last."""
    last = runs[-1]
    return {
        name: middle([r[name] for r in runs]) if isinstance(last[name], int | float) else last[name]
        for name in last
    }
