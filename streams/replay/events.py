"""Our own JSON lines (see `json_lines`), as exported or written by hand: everything as it was said.

Type, data, id, source, time, key and the correlation attributes are kept; project and clock are the
replay's. Files of a folder are merged by time. A line needs an id and a time of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streams.replay.json_lines import from_json_line
from streams.replay.record import Item, Options, Recorded, find_files
from streams.replay.rows import json_lines
from streams.replay.timeline import interleave

PATTERNS = ("*.jsonl",)


def read(path: Path, _options: Options) -> Iterator[Item]:
    """All events below `path`; each file is expected in time order. Raises NothingToReplay."""
    return interleave((float("-inf"), _events(file)) for file in find_files(path, PATTERNS))


def _events(file: Path) -> Iterator[Item]:
    def recorded(line: int, text: bytes) -> Iterator[Recorded]:
        event, envelope, key = from_json_line(text)
        yield Recorded(
            event,
            envelope.time,
            envelope.id,
            file,
            line,
            correlation_id=envelope.correlation_id,
            causation_id=envelope.causation_id,
            traceparent=envelope.traceparent,
            subject=envelope.subject,
            source=envelope.source,
            key=key,
        )

    return json_lines(file, recorded)
