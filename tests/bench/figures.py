"""A figure beside what it must reach and what it aims at, and the circumstances it was taken in."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

VERSIONS = ("aiokafka", "fastavro", "msgspec", "pydantic", "river", "uvloop")


def figure(
    value: float, unit: str, *, must: float | None = None, aim: float | None = None, least: bool = False
) -> dict[str, Any]:
    """`value` in `unit`; `must` and `aim` are upper bounds, or lower ones with `least`."""

    def reached(bound: float) -> bool:
        return value >= bound if least else value <= bound

    out: dict[str, Any] = {"value": round(value, 3), "unit": unit}
    if must is not None:
        out |= {"must": must, "must_reached": reached(must)}
    if aim is not None:
        out |= {"aim": aim, "aim_reached": reached(aim)}
    return out


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and the greatest, by nearest rank, rounded to 0.1."""
    ordered = sorted(values)
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * q))], 1) for name, q in at.items()}


def middle(runs: Sequence[float]) -> float:
    """The median of repeated runs."""
    return statistics.median(runs)


def circumstances() -> dict[str, Any]:
    """Cores, versions, date and load: without them a figure says nothing."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "versions": {name: _version(name) for name in VERSIONS},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def say(text: str) -> None:
    """Progress, for a person."""
    print(text, file=sys.stderr, flush=True)
