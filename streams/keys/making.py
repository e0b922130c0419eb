"""Keys of projects: made, listed, rotated, given another quota, revoked; by the operator, in the data folder."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from schemas.envelope import format_time
from schemas.errors import ConfigurationError
from streams.keys.kept import KeyFile, KeyInfo, Quota, Replaced, changing, check_project, hash_of, read
from streams.keys.quotas import checked as checked_quota
from streams.keys.scopes import checked as checked_scopes
from streams.settings import Settings

SOON_S = 7 * 86_400.0
OVERLAP_S = 86_400.0
_TOLD_S = 30 * 86_400.0
"""How long a secret that no longer works is remembered, so that who still uses it is told so."""


def create(
    settings: Settings,
    project: str,
    scopes: Iterable[str],
    name: str,
    *,
    expires: float | None = None,
    quota: Quota | None = None,
) -> str:
    """Make a key of one project and return it: it is shown this once. Raises ConfigurationError.

    `expires`: seconds since 1970; None: never.
    """
    ordered = checked_scopes(scopes)
    check_project(project)
    if not 0 < len(name) <= 128:
        raise ConfigurationError("a key needs a name of 1 to 128 characters", hint="say what it is for")
    now = time.time()
    _check_expiry(expires, now)
    quota = checked_quota(quota or Quota())
    with changing(settings) as file:
        if any(k.name == name and k.project == project for k in file.keys):
            raise ConfigurationError(
                f"project {project} has a key named {name!r}",
                hint="`headwater keys rotate` gives it a new secret; or revoke it first, or take another name",
            )
        id_ = secrets.token_hex(6)
        key = _new_secret(id_)
        file.keys.append(KeyInfo(id_, name, project, ordered, now, hash_of(key), expires, (), quota))
    return key


def rotate(
    settings: Settings, id: str, overlap_s: float = OVERLAP_S, *, expires: float | None = None
) -> tuple[str, KeyInfo]:
    """Give a key a new secret, and return it with the key: it is shown this once.

    Every earlier secret works for `overlap_s` seconds more at most, and never longer than it would
    have. `expires`: when the key ends; None leaves it as it was. Raises ConfigurationError.
    """
    if overlap_s < 0:
        raise ConfigurationError(f"an overlap of {overlap_s:g} s", hint="0 ends the old secret at once")
    now = time.time()
    _check_expiry(expires, now)
    with changing(settings) as file:
        index, old = _find(file, id)
        if expires is None and old.expires is not None and old.expires <= now:
            raise ConfigurationError(
                f"key {old.id} ({old.name}) expired at {format_time(old.expires)}",
                hint="say until when it shall be valid: --expires",
            )
        end = min(now + overlap_s, math.inf if old.expires is None else old.expires)
        earlier = (Replaced(r.sha256, min(r.until, end)) for r in old.replaced)
        replaced = [Replaced(old.sha256, end), *(r for r in earlier if r.until > now - _TOLD_S)]
        key = _new_secret(old.id)
        file.keys[index] = new = msgspec.structs.replace(
            old,
            sha256=hash_of(key),
            replaced=tuple(replaced),
            expires=old.expires if expires is None else expires,
        )
    return key, new


def limit(settings: Settings, id: str, quota: Quota) -> KeyInfo:
    """Give a key another quota. Raises ConfigurationError."""
    quota = checked_quota(quota)
    with changing(settings) as file:
        index, old = _find(file, id)
        file.keys[index] = new = msgspec.structs.replace(old, quota=quota)
    return new


def list_keys(settings: Settings) -> list[KeyInfo]:
    """The projects' keys, the oldest first; the administrator's is not among them."""
    return sorted(read(settings).keys, key=lambda k: k.created)


def revoke(settings: Settings, id: str) -> KeyInfo:
    """Take a key's rights from now on; raises ConfigurationError where there is no key of this id."""
    with changing(settings) as file:
        index, gone = _find(file, id)
        del file.keys[index]
    return gone


class State(NamedTuple):
    """How a key stands: active, expires soon, expired, or rotating; `until` then: the old secret's end."""

    name: str
    until: float | None = None


def state_of(key: KeyInfo, now: float) -> State:
    """How a key stands at a time, seconds since 1970."""
    if key.expires is not None and key.expires <= now:
        return State("expired")
    until = max((r.until for r in key.replaced), default=0.0)
    if until > now:
        return State("rotating", until)
    if key.expires is not None and key.expires <= now + SOON_S:
        return State("expires soon")
    return State("active")


def _new_secret(id_: str) -> str:
    return f"hw_{id_}_{secrets.token_urlsafe(32)}"


def _find(file: KeyFile, id_: str) -> tuple[int, KeyInfo]:
    for index, key in enumerate(file.keys):
        if key.id == id_:
            return index, key
    raise ConfigurationError(f"there is no key with id {id_!r}", hint="see `headwater keys list`")


def _check_expiry(expires: float | None, now: float) -> None:
    if expires is not None and expires <= now:
        raise ConfigurationError(
            f"a key that expired at {format_time(expires)} opens nothing", hint="name a time to come"
        )
