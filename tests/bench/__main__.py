"""Runs every bench_*.py of this folder, or the named ones (`folds latency`); prints one JSON object.

Exits with 0 whether or not targets are reached: a benchmark is no test. A benchmark that fails says
so under its name, the others still run, and the exit code is 1.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import structlog

from tests.bench.figures import circumstances, say


def main(wanted: list[str]) -> int:
    """Run and print; returns the exit code."""
    known = [path.stem.removeprefix("bench_") for path in sorted(Path(__file__).parent.glob("bench_*.py"))]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        say(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
        return 2
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the JSON
    report: dict[str, Any] = {"circumstances": circumstances(), "benchmarks": {}}
    failed = False
    for name in wanted or known:
        say(f"== {name}")
        started = time.monotonic()
        try:
            result = dict(importlib.import_module(f"tests.bench.bench_{name}").run())
        except Exception as error:  # noqa: BLE001 - whatever one raises, the others still run
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {error}"}
            failed = True
        report["benchmarks"][name] = result | {"took_s": round(time.monotonic() - started, 1)}
    report["circumstances"]["load_average_at_end"] = circumstances()["load_average"]
    print(json.dumps(report, indent=2))
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
