"""A copy of the views' SQLite file while it is written to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

FILE = "views.sqlite"
_PAGES = 2_000


def copy(source: Path, target: Path, room: Callable[[int], None]) -> None:
    """Copy a database as of this moment; its writer is not held up. Raises sqlite3.Error.

    `room` is told the bytes that are still to be written, every few MiB, and may raise.
    """
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        writing.execute("PRAGMA synchronous=OFF")
        # A snapshot that outlives the steps: without it each change meanwhile would start the copy anew.
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        (size,) = reading.execute("PRAGMA page_size").fetchone()
        room(size * reading.execute("PRAGMA page_count").fetchone()[0])
        reading.backup(writing, pages=_PAGES, sleep=0, progress=lambda _, left, __: room(left * size))
