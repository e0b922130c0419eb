"""What each running process says of itself: one small JSON file a process in `$DATA/run`."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import Any, Literal

import orjson
import psutil

from streams.settings import Settings

State = Literal["starting", "running", "stopping", "failed"]
JSON = bool | int | float | str | None | list[Any] | dict[str, Any]
Status = dict[str, Any]
"""One process: process, pid, state, since and updated (seconds since 1970), facts, alive."""


class ProcessStatus:
    """Where a process says how it is doing; written whole each time, so that readers never see half."""

    def __init__(self, settings: Settings, process: str) -> None:
        self.path = settings.run_folder / f"{process}.json"
        self.process = process
        self._state: State | None = None
        self._since = time.time()
        self._facts: dict[str, JSON] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def set(self, state: State, **facts: JSON) -> None:
        """Say the state, and facts beside those said earlier (the same name replaces)."""
        now = time.time()
        if state != self._state:
            self._state, self._since = state, now
        self._facts.update(facts)
        write_whole(
            self.path,
            orjson.dumps(
                {
                    "process": self.process,
                    "pid": os.getpid(),
                    "born": born(os.getpid()),
                    "state": state,
                    "since": self._since,
                    "updated": now,
                    "facts": self._facts,
                },
                option=orjson.OPT_SERIALIZE_NUMPY,
            ),
        )

    def close(self) -> None:
        """Take the file away, unless another process has taken the place."""
        said = read(self.path)
        if said is not None and said["pid"] == os.getpid():
            self.path.unlink(missing_ok=True)


def read_all(settings: Settings) -> dict[str, Status]:
    """Each process's last word, by name; `alive` says whether that very process is still there."""
    found = {}
    for path in sorted(settings.run_folder.glob("*.json")):
        said = read(path)
        if said is not None:
            found[str(said["process"])] = said
    return found


def read(path: Path) -> Status | None:
    """One status file; None where there is none or it is no status (another program's file)."""
    try:
        said = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    if not isinstance(said, dict) or not {"process", "pid", "state", "facts"} <= said.keys():
        return None
    said["alive"] = is_alive(said["pid"], said.get("born"))
    return said


def is_alive(pid: int, birth: float | None) -> bool:
    """Whether the process with this pid and start time runs; a pid alone may have been given anew."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return birth is None or abs(process.create_time() - birth) < 1.0
    except psutil.NoSuchProcess:
        return False


@cache
def born(pid: int) -> float:
    """Start time of a running process, seconds since 1970."""
    return float(psutil.Process(pid).create_time())


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new, a crash leaves one of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    half.write_bytes(content)
    half.replace(path)
