"""What each running process says of itself: one small JSON file a process in `$DATA/run`."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import orjson
import psutil
import structlog

from streams.disk import is_full
from streams.settings import Settings

log = structlog.get_logger()

State = Literal["starting", "running", "stopping", "failed"]
_ROOM = 4096
JSON = bool | int | float | str | None | list[Any] | dict[str, Any]
Status = dict[str, Any]
"""One process: process, pid, state, since and updated (seconds since 1970), facts, alive."""


class ProcessStatus:
    """Where a process says how it is doing. What cannot be written is not said: no disk ends a process."""

    def __init__(self, settings: Settings, process: str) -> None:
        self.path = settings.run_folder / f"{process}.json"
        self.process = process
        self._state: State | None = None
        self._since = time.time()
        self._facts: dict[str, JSON] = {}

    def set(self, state: State, **facts: JSON) -> None:
        """Say the state, and facts beside those said earlier (the same name replaces)."""
        now = time.time()
        if state != self._state:
            self._state, self._since = state, now
        self._facts.update(facts)
        leave(
            self.path,
            _with_room(
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
                )
            ),
        )

    def close(self) -> None:
        """Take the file away, unless another process has taken the place."""
        said = read(self.path)
        if said is not None and said["pid"] == os.getpid():
            with suppress(OSError):
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


def leave(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new, a crash leaves one of them.

    On a full disk the old content is written over where it is as long: then a reader may see half. Where
    that cannot be done either, the old content stays; the first time it is logged.
    """
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(content)
        half.replace(path)
    except OSError as error:
        with suppress(OSError):
            half.unlink(missing_ok=True)
        if not (is_full(error) and _wrote_over(path, content)):
            _tell(str(path), str(error))


def _wrote_over(path: Path, content: bytes) -> bool:
    try:
        with path.open("rb+") as file:
            size = os.fstat(file.fileno()).st_size
            if len(content) <= size:
                file.write(content.ljust(size))
            return len(content) <= size
    except OSError:
        return False


def _with_room(content: bytes) -> bytes:
    """Followed by so many spaces that there is room for saying what is wrong once the disk is full."""
    return content.ljust(len(content) + _ROOM - len(content) % _ROOM)


@cache
def _tell(path: str, why: str) -> None:
    """Once for each reason: it is tried every second."""
    log.warning("status.not_written", path=path, why=why)
