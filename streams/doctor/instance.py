"""The doctor's look at this instance: its lock, ports, key, database and processes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from schemas.errors import HeadwaterError
from streams.doctor.finding import Finding
from streams.settings import Settings
from streams.supervision.instance import describe, instance_lock, listener, ports
from streams.supervision.status import read_all

RESTARTS_WARN = 3


def lock(settings: Settings) -> list[Finding]:
    """Whether `headwater up` runs, and whether an earlier one ended without a word."""
    instance = instance_lock(settings)
    pid = instance.holder()
    if instance.is_held():
        return [Finding("lock", "ok", f"headwater up runs (pid {pid or 'unknown'})")]
    if pid is not None:
        return [
            Finding("lock", "ok", f"stale: pid {pid} ended without stopping; the next start takes it over")
        ]
    return [Finding("lock", "ok", "free: nothing runs in this data folder")]


def doors(settings: Settings) -> list[Finding]:
    """Whether the ports are free, or are ours."""
    ours = {p for status in read_all(settings).values() if status["alive"] for p in _pids(status)}
    found = []
    for use, port in ports(settings).items():
        process = listener(port)
        name = f"port {port} ({use})"
        if process is None:
            found.append(Finding(name, "ok", "free"))
        elif process.pid in ours:
            found.append(Finding(name, "ok", f"ours: {describe(process)}"))
        else:
            found.append(
                Finding(
                    name,
                    "fail",
                    f"in use by {describe(process)}",
                    "stop that, or set HEADWATER_PORT to another base",
                )
            )
    return found


def _pids(status: dict[str, object]) -> list[int]:
    facts = status["facts"]
    assert isinstance(facts, dict)
    values = [status["pid"], facts.get("pid"), *facts.get("pids", {}).values()]
    return [v for v in values if isinstance(v, int)]


def api_key(settings: Settings) -> list[Finding]:
    """Whether the key file can be read by its owner alone."""
    if settings.api_key is not None:
        return [Finding("api key", "ok", "from HEADWATER_API_KEY")]
    path = settings.data / "api-key"
    if not path.exists():
        return [Finding("api key", "ok", "none yet: the first start makes one")]
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return [
            Finding(
                "api key",
                "fail",
                f"{path} has mode {mode:04o}: others can read it",
                f"chmod 600 {path}; and make a new key if others were here",
            )
        ]
    return [Finding("api key", "ok", f"{path}, mode {mode:04o}")]


def database(settings: Settings) -> list[Finding]:
    """Whether the views' database can be written to."""
    if not settings.database_url.startswith("sqlite"):
        return [_server(settings)]
    path = Path(settings.database_url.removeprefix("sqlite:///"))
    if not path.exists():
        return [Finding("views database", "ok", "none yet: the first start makes one")]
    try:
        connection = sqlite3.connect(path, timeout=0.5, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return [Finding("views database", "ok", f"{path}, being written to")]
        return [
            Finding("views database", "fail", f"{path}: {error}", "give this user the right to write there")
        ]
    except sqlite3.DatabaseError as error:
        return [
            Finding(
                "views database",
                "fail",
                f"{path}: {error}",
                "delete it with its -wal and -shm files: the views are made anew from the log",
            )
        ]
    return [Finding("views database", "ok", f"{path}, {path.stat().st_size / 2**20:.1f} MiB")]


def _server(settings: Settings) -> Finding:
    from projections.database import check  # noqa: PLC0415 - brings SQLAlchemy along

    try:
        return Finding("views database", "ok", check(settings.database_url))
    except HeadwaterError as error:
        return Finding("views database", "fail", error.message, error.hint)


def processes(settings: Settings) -> list[Finding]:
    """Whether a process failed or keeps dying."""
    found = []
    said = read_all(settings)
    up = said.get("up")
    restarts = up["facts"].get("restarts", {}) if up is not None and up["alive"] else {}
    for name, status in said.items():
        log = settings.log_folder / f"{name}.log"
        if status["state"] == "failed":
            why = status["facts"].get("error", "no reason given")
            found.append(Finding(f"process {name}", "fail", f"failed: {why}", f"see {log}"))
        elif restarts.get(name, 0) >= RESTARTS_WARN:
            found.append(
                Finding(f"process {name}", "warn", f"started again {restarts[name]} times", f"see {log}")
            )
        elif not status["alive"]:
            found.append(Finding(f"process {name}", "warn", "died without a word", f"see {log}"))
    return found or [Finding("processes", "ok", f"{len(said)} running" if said else "none running")]
