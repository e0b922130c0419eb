"""A data folder without a broker's log, as that of a process beside a cluster, and its backup."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from streams.backup.restoring import Restored, restore
from streams.backup.taking import Taken, backup
from streams.settings import Settings

KEPT = {
    "api-key": b"administrator's\n",
    "snapshot-key": b"secret",
    "keys.json": b"{}",
    "models/a/weights": bytes(range(256)) * 900,
    "models/empty": b"",
}
LEFT = ("run/folds.json", "logs/folds.log", "up.lock", "keys.lock", "keys.json.77.new", "x.9.tmp")


def settings_of(folder: Path, **other: object) -> Settings:
    """Those of an instance on a cluster of the user's own."""
    return Settings.model_validate({"data": folder, "kafka": "kafka.example:9092", **other})


def fill(folder: Path) -> None:
    """Write KEPT, LEFT, and views of three rows."""
    for name, content in KEPT.items() | dict.fromkeys(LEFT, b"of a process").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with closing(sqlite3.connect(folder / "views.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE rows (n)")
        connection.executemany("INSERT INTO rows VALUES (?)", [(1,), (2,), (3,)])
        connection.commit()


def rows(folder: Path) -> list[int]:
    """The views' rows."""
    with closing(sqlite3.connect(folder / "views.sqlite")) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM rows ORDER BY n")]


def take(folder: Path, path: Path, **other: object) -> Taken:
    """A backup of a folder."""
    return backup(settings_of(folder, **other), path, lambda *_: None)


def put_back(path: Path, folder: Path, *, force: bool = False) -> Restored:
    """Restore into a folder."""
    return restore(settings_of(folder), path, lambda *_: None, force=force)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        os.path.relpath(os.path.join(at, name), folder): Path(at, name).read_bytes()  # noqa: PTH118
        for at, _, names in os.walk(folder)
        for name in names
    }
