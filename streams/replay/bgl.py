"""Log of the BlueGene/L supercomputer (loghub, structured): each line is one ErrorReported.

Component = `Component`, agent = `Node`, error type = `EventId` (the message's template), message =
`Content`, severity: INFO info, WARNING warning, ERROR and SEVERE error, FATAL critical. Event time =
`Timestamp` (seconds, UTC) with the microseconds of `Time`, which itself is in a local time with
daylight saving. `Label` is the truth and never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from schemas.events import ErrorReported, Severity
from streams.replay.record import Item, Options, Recorded, find_files
from streams.replay.rows import BadValue, count, csv_rows
from streams.replay.timeline import interleave

PATTERNS = ("*_structured.csv",)
_COLUMNS = ("Timestamp", "Time", "Node", "Component", "Level", "Content", "EventId")
_SEVERITY: Final[dict[str, Severity]] = {
    "INFO": "info",
    "WARNING": "warning",
    "ERROR": "error",
    "SEVERE": "error",
    "FATAL": "critical",
}
_TIME = re.compile(r"\d{4}-\d\d-\d\d-\d\d\.\d\d\.\d\d\.(\d{6})")


def read(path: Path, _options: Options) -> Iterator[Item]:
    """All lines below `path` in time order. Raises NothingToReplay."""
    return interleave((float("-inf"), _lines(file)) for file in find_files(path, PATTERNS))


def _lines(file: Path) -> Iterator[Item]:
    def log_line(line: int, values: tuple[str, ...]) -> Iterator[Recorded]:
        timestamp, local_time, node, component, level, content, event_id = values
        if level not in _SEVERITY:
            raise BadValue(f"Level: {level!r} is none of {', '.join(_SEVERITY)}")
        microseconds = _TIME.fullmatch(local_time)
        if microseconds is None:
            raise BadValue(f"Time: {local_time!r} is not YYYY-MM-DD-hh.mm.ss.ffffff")
        event = ErrorReported(
            component=component,
            error_type=event_id,
            message=content,
            severity=_SEVERITY[level],
            agent_id=node,
        )
        time = count("Timestamp", timestamp) + int(microseconds[1]) / 1e6
        yield Recorded(event, time, f"bgl:{file.stem}:{line}", file, line)

    return csv_rows(file, _COLUMNS, log_line)
