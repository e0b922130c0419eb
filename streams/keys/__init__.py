"""API keys: the administrator's, and those of projects, with scopes, expiry, rotation and quotas."""

from __future__ import annotations

from streams.keys.admin import admin_key
from streams.keys.kept import KeyInfo, Quota
from streams.keys.making import create, limit, list_keys, revoke, rotate
from streams.keys.ring import ADMIN_ID, Identity, Keyring, Refusal
from streams.keys.scopes import PRODUCE, SCOPES

__all__ = [
    "ADMIN_ID",
    "PRODUCE",
    "SCOPES",
    "Identity",
    "KeyInfo",
    "Keyring",
    "Quota",
    "Refusal",
    "admin_key",
    "create",
    "limit",
    "list_keys",
    "revoke",
    "rotate",
]
