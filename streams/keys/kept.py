"""What is kept of keys: one file, replaced whole, read by every gateway.

A key is 256 random bits, so a plain SHA-256 of it is as good as a slow hash: there is nothing to guess.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from schemas.errors import ConfigurationError
from streams.producing.outgoing import PROJECT
from streams.settings import Settings

Stamp = tuple[int, int, int]


class Quota(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much a key or a project may send. None: what is the default; 0: as much as it likes.

    `burst` is how many events may come at once after a rest; None: what five seconds bring.
    """

    events_per_second: float | None = None
    burst: float | None = None
    bytes_per_second: float | None = None


class Replaced(msgspec.Struct, frozen=True):
    """The hash of a secret that was rotated away, and until when it works, seconds since 1970."""

    sha256: str
    until: float


class KeyInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of a project's key; the key itself is not. Times are seconds since 1970.

    `expires` None: never. `replaced` are earlier secrets, the last one first.
    """

    id: str
    name: str
    project: str
    scopes: tuple[str, ...]
    created: float
    sha256: str
    expires: float | None = None
    replaced: tuple[Replaced, ...] = ()
    quota: Quota = Quota()


class KeyFile(msgspec.Struct):
    """All keys, and the quotas of projects by name."""

    keys: list[KeyInfo] = []
    projects: dict[str, Quota] = {}


def check_project(project: str) -> None:
    """Raise ConfigurationError where this is no project's name."""
    if not PROJECT.fullmatch(project):
        raise ConfigurationError(
            f"project {project!r} is not a name", hint="1 to 128 of letters, digits, '.', '_' and '-'"
        )


def path_of(settings: Settings) -> Path:
    """Where keys are kept."""
    return settings.data / "keys.json"


def hash_of(key: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def stamp(path: Path) -> Stamp | None:
    """What changes when a file does; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def read(settings: Settings) -> KeyFile:
    """What is kept; empty where there is no file. Raises ConfigurationError."""
    path = path_of(settings)
    try:
        return msgspec.json.decode(path.read_bytes(), type=KeyFile)
    except FileNotFoundError:
        return KeyFile()
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(
            f"the keys in {path} cannot be read: {error}",
            hint="restore the file, or remove it: all projects' keys are then revoked",
        ) from error


@contextmanager
def changing(settings: Settings) -> Iterator[KeyFile]:
    """What is kept, written back whole at the end; one change at a time. Raises ConfigurationError."""
    path = path_of(settings)
    try:
        with locked(path):
            file = read(settings)
            yield file
            write(path, msgspec.json.format(msgspec.json.encode(file), indent=1))
    except OSError as error:
        raise ConfigurationError(
            f"the keys in {path} cannot be changed: {error.strerror or error}",
            hint="make the data folder writable for this user",
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes of this machine from changing a file meanwhile. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(path: Path, content: bytes) -> None:
    """Replace a file in one step, readable by its owner only, on disk when this returns."""
    half = path.with_name(f"{path.name}.{os.getpid()}.new")
    with suppress(FileNotFoundError):
        half.unlink()
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    half.replace(path)
