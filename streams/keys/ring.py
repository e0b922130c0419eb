"""All keys, for a running gateway: whose key one is, and why one is nobody's."""

from __future__ import annotations

import hmac
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from projections.access import ALL_PROJECTS, Caller
from schemas.envelope import format_time
from streams.keys.admin import admin_key, admin_path
from streams.keys.kept import KeyInfo, Quota, Stamp, hash_of, path_of, read, stamp
from streams.keys.scopes import SCOPES
from streams.settings import Settings

ADMIN_ID = "admin"
"""What the administrator's key is called where others have their id."""
_KEY = re.compile(r"hw_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_UNKNOWN = "this API key is not known: it was revoked, or never made"


class Identity(NamedTuple):
    """Who a key is: what it may do, and what to call it in logs."""

    caller: Caller
    name: str


class Refusal(NamedTuple):
    """Why a key opens nothing: in a word, in a sentence, and the id that it claims, if it is one of ours."""

    reason: str
    sentence: str
    key_id: str | None = None


class Keyring:
    """Keys and quotas as the data folder says: files that changed are read again at the next question.

    `now` gives seconds since 1970.
    """

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._now = now
        self._seen: tuple[Stamp | None, Stamp | None] | None = None
        self._admin = b""
        self._keys: dict[str, KeyInfo] = {}
        self._projects: dict[str, Quota] = {}
        self._sharing: Counter[str] = Counter()

    def identify(self, key: str) -> Identity | None:
        """Whose key this is; None where it is nobody's. Compares in constant time."""
        self._refresh()
        if hmac.compare_digest(hash_of(key).encode(), self._admin):
            return Identity(Caller(ALL_PROJECTS, frozenset(SCOPES), ADMIN_ID), "admin")
        known = self._claimed(key)
        if known is None or self._why_not(known, key) is not None:
            return None
        return Identity(Caller(known.project, frozenset(known.scopes), known.id), known.name)

    def refusal(self, key: str) -> Refusal:
        """Why `identify` found nobody. Only who has the secret learns more than that it is not known."""
        self._refresh()
        known = self._claimed(key)
        why = None if known is None else self._why_not(known, key)
        return why or Refusal("unknown", _UNKNOWN)

    def quotas(self, caller: Caller) -> tuple[Quota, Quota, int]:
        """The quota of the caller's key, that of its project, and how many keys share the latter.

        As of the last question; an expired key counts until it is revoked.
        """
        known = self._keys.get(caller.key)
        of_key = known.quota if known else Quota()
        return of_key, self._projects.get(caller.project, Quota()), self._sharing.get(caller.project, 1)

    def _claimed(self, key: str) -> KeyInfo | None:
        match = _KEY.fullmatch(key)
        return self._keys.get(match.group(1)) if match else None

    def _why_not(self, known: KeyInfo, key: str) -> Refusal | None:
        """Why this key is not the known one; None: it is."""
        given, now = hash_of(key), self._now()
        until: float | None = None
        if not hmac.compare_digest(given, known.sha256):
            until = next((r.until for r in known.replaced if hmac.compare_digest(given, r.sha256)), None)
            if until is None:
                return Refusal("unknown", _UNKNOWN, known.id)
        if known.expires is not None and known.expires <= now:
            sentence = f"this API key expired at {format_time(known.expires)}"
            return Refusal("expired", sentence, known.id)
        if until is not None and until <= now:
            sentence = f"this API key's secret was replaced by another, and expired at {format_time(until)}"
            return Refusal("replaced", sentence, known.id)
        return None

    def _refresh(self) -> None:
        seen = (stamp(admin_path(self._settings)), stamp(path_of(self._settings)))
        if seen == self._seen:
            return
        self._admin = hash_of(admin_key(self._settings)).encode()
        file = read(self._settings)
        self._keys = {k.id: k for k in file.keys}
        self._projects = file.projects
        self._sharing = Counter(k.project for k in file.keys)
        self._seen = seen  # taken before reading: a change meanwhile is read at the next question
