"""Whether the whole instance is at work: every process says so, and the folds have all their partitions."""

from __future__ import annotations

import time
from collections.abc import Iterable

from processors.catalog import usable as folds
from streams.admin import declared
from streams.settings import Settings
from streams.supervision.overview import reachable
from streams.supervision.status import Status, read_all

STALE_S = 15.0
"""Processes say how they are every second; a word older than this is a process that hangs."""
_NEEDED = ("folds", "views")
_NOT_NEEDED = ("up", "serve", "simulate", "broker")


def missing(settings: Settings) -> list[str]:
    """What is not ready, a sentence each; empty when all is. Blocks for half a second at most."""
    said = read_all(settings)
    found = []
    if not reachable(settings.bootstrap):
        found.append(f"Kafka at {settings.bootstrap} does not answer")
    supervised = said["up"]["facts"].get("states", {}) if said.get("up", {}).get("alive") else {}
    for name in sorted({*_NEEDED, *supervised} - {*_NOT_NEEDED}):
        found += _process(name, said.get(name))
    return found + _partitions(settings, said)


def _process(name: str, status: Status | None) -> list[str]:
    if status is None:
        return [f"{name} does not run"]
    if not status["alive"]:
        return [f"{name} died"]
    if status["state"] != "running":
        return [f"{name} is {status['state']}"]
    silent_s = time.time() - float(status.get("updated", 0))
    return [f"{name} has said nothing for {silent_s:.0f} s"] if silent_s > STALE_S else []


def _partitions(settings: Settings, said: dict[str, Status]) -> list[str]:
    """Partitions that no fold process has; the folds of one data folder may be several processes."""
    counts = {spec.name: spec.partitions for spec in declared(settings)}
    wanted = {(t.name, p) for fold in folds() for t in fold.topics for p in range(counts[t.name])}
    workers = [s for name, s in said.items() if name.partition("-")[0] == "folds" and s["alive"]]
    held = {(topic, p) for s in workers for topic, p in s["facts"].get("partitions", [])}
    absent = wanted - held
    if not workers or not absent:
        return []
    return [f"folds lack {len(absent)} of {len(wanted)} partitions: {_listed(absent)}"]


def _listed(places: Iterable[tuple[str, int]]) -> str:
    ordered = sorted(places)
    return ", ".join(f"{t}/{p}" for t, p in ordered[:5]) + (", …" if len(ordered) > 5 else "")
