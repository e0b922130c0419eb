"""API keys: the administrator's, and those of projects; kept as hashes, noticed by a running gateway.

A key is 256 random bits, so a plain SHA-256 of it is as good as a slow hash: there is nothing to guess.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from projections.access import ADMIN, ALL_PROJECTS, READ, Caller
from schemas.errors import ConfigurationError
from streams.producing.outgoing import PROJECT
from streams.settings import Settings

log = structlog.get_logger()

PRODUCE = "produce"
SCOPES = (PRODUCE, READ, ADMIN)
_PREFIX = "hw"
_KEY = re.compile(r"hw_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NO_HASH = "0" * 64


class KeyInfo(msgspec.Struct, frozen=True):
    """What is kept of a project's key. `created` is seconds since 1970; the key itself is not kept."""

    id: str
    name: str
    project: str
    scopes: tuple[str, ...]
    created: float
    sha256: str


class _File(msgspec.Struct):
    keys: list[KeyInfo] = []


def admin_key(settings: Settings) -> str:
    """The key with all rights: HEADWATER_API_KEY, else that of `$DATA/api-key`, made on first use.

    Raises ConfigurationError where the file cannot be used.
    """
    if settings.api_key is not None:
        return _refuse_short(settings.api_key.get_secret_value(), "HEADWATER_API_KEY")
    path = settings.data / "api-key"
    try:
        if not path.exists():
            _make(path, secrets.token_urlsafe(32))
        if path.stat().st_mode & 0o077:
            log.warning("keys.readable_by_others", path=str(path), done="chmod 600")
            path.chmod(0o600)
        return _refuse_short(path.read_text().strip(), str(path))
    except OSError as error:
        raise ConfigurationError(
            f"the API key {path} cannot be used: {error.strerror or error}",
            hint="make the data folder writable for this user, or set HEADWATER_API_KEY",
        ) from error


def create(settings: Settings, project: str, scopes: Iterable[str], name: str) -> str:
    """Make a key of one project and return it: it is shown this once. Raises ConfigurationError."""
    wanted = set(scopes)
    if not wanted or not wanted <= set(SCOPES):
        raise ConfigurationError(
            f"scopes {', '.join(sorted(wanted)) or 'none'} are not among {', '.join(SCOPES)}",
            hint="name at least one of them",
        )
    if not PROJECT.fullmatch(project):
        raise ConfigurationError(
            f"project {project!r} is not a name", hint="1 to 128 of letters, digits, '.', '_' and '-'"
        )
    if not 0 < len(name) <= 128:
        raise ConfigurationError("a key needs a name of 1 to 128 characters", hint="say what it is for")
    with _changing(settings) as file:
        if any(k.name == name and k.project == project for k in file.keys):
            raise ConfigurationError(
                f"project {project} has a key named {name!r}", hint="revoke it first, or take another name"
            )
        id_ = secrets.token_hex(6)
        key = f"{_PREFIX}_{id_}_{secrets.token_urlsafe(32)}"
        ordered = tuple(s for s in SCOPES if s in wanted)
        file.keys.append(KeyInfo(id_, name, project, ordered, time.time(), _hash(key)))
    return key


def list_keys(settings: Settings) -> list[KeyInfo]:
    """The projects' keys, the oldest first; the administrator's is not among them."""
    return sorted(_read(_path(settings)).keys, key=lambda k: k.created)


def revoke(settings: Settings, id: str) -> KeyInfo:
    """Take a key's rights from now on; raises ConfigurationError where there is no key of this id."""
    with _changing(settings) as file:
        gone = next((k for k in file.keys if k.id == id), None)
        if gone is None:
            raise ConfigurationError(f"there is no key with id {id!r}", hint="see `headwater keys list`")
        file.keys.remove(gone)
    return gone


class Identity(NamedTuple):
    """Who a key is: what it may do, and what to call it in logs."""

    caller: Caller
    name: str


class Keyring:
    """All keys, for a running gateway: files that changed are read again at the next question."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: tuple[object, object] | None = None
        self._admin = b""
        self._keys: dict[str, KeyInfo] = {}

    def identify(self, key: str) -> Identity | None:
        """Whose key this is; None where it is nobody's. Compares in constant time."""
        self._refresh()
        given = _hash(key)
        if hmac.compare_digest(given.encode(), self._admin):
            return Identity(Caller(ALL_PROJECTS, frozenset(SCOPES)), "admin")
        match = _KEY.fullmatch(key)
        known = self._keys.get(match.group(1)) if match else None
        same = hmac.compare_digest(given, known.sha256 if known else _NO_HASH)
        if known is None or not same:
            return None
        return Identity(Caller(known.project, frozenset(known.scopes)), known.name)

    def _refresh(self) -> None:
        seen = (_stamp(self._settings.data / "api-key"), _stamp(_path(self._settings)))
        if seen == self._seen:
            return
        self._admin = _hash(admin_key(self._settings)).encode()
        self._keys = {k.id: k for k in _read(_path(self._settings)).keys}
        self._seen = seen  # taken before reading: a change meanwhile is read at the next question


def _path(settings: Settings) -> Path:
    return settings.data / "keys.json"


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _refuse_short(key: str, where: str) -> str:
    if len(key) < 16:
        raise ConfigurationError(
            f"the API key in {where} has {len(key)} characters", hint="16 at least; 43 random ones are made"
        )
    return key


def _read(path: Path) -> _File:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return _File()
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(
            f"the keys in {path} cannot be read: {error}",
            hint="restore the file, or remove it: all projects' keys are then revoked",
        ) from error


@contextmanager
def _changing(settings: Settings) -> Iterator[_File]:
    """The file's content, written back whole at the end; one change at a time."""
    path = _path(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name("keys.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = _read(path)
            yield file
            _write(path, msgspec.json.format(msgspec.json.encode(file), indent=1))
    except OSError as error:
        raise ConfigurationError(
            f"the keys in {path} cannot be changed: {error.strerror or error}",
            hint="make the data folder writable for this user",
        ) from error


def _make(path: Path, key: str) -> None:
    """Write a new key; where another process was first, its key stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    _write(half, f"{key}\n".encode())
    with suppress(FileExistsError):
        os.link(half, path)
    half.unlink()


def _write(path: Path, content: bytes) -> None:
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
