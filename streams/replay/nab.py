"""Numenta Anomaly Benchmark: each series is one metric of one host, each point a MetricReported.

Component `host:<folder>.<series>`, metric `value`, event time the timestamp read as UTC; the series are
merged by time. Labels (`labels/`) are never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from schemas.events import MetricReported
from streams.replay.record import Item, Options, Recorded, find_files
from streams.replay.rows import csv_rows, moment, number
from streams.replay.timeline import interleave

PATTERNS = ("*.csv",)
_COLUMNS = ("timestamp", "value")


def read(path: Path, _options: Options) -> Iterator[Item]:
    """All series below `path` in time order. Raises NothingToReplay."""
    return interleave((float("-inf"), _series(file)) for file in find_files(path, PATTERNS))


def series_name(file: Path) -> str:
    """A series by folder and file: the file alone need not be unique."""
    return f"{file.resolve().parent.name}.{file.stem}"


def _series(file: Path) -> Iterator[Item]:
    name = series_name(file)

    def point(line: int, values: tuple[str, ...]) -> Iterator[Recorded]:
        event = MetricReported(component=f"host:{name}", name="value", value=number("value", values[1]))
        # By row, not by time: a series may hold several points of one moment.
        yield Recorded(event, moment("timestamp", values[0]), f"nab:{name}:{line}", file, line)

    return csv_rows(file, _COLUMNS, point)
