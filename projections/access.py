"""Whose question it is, and which project he may ask about."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.envelope import DEFAULT_PROJECT
from schemas.errors import HeadwaterError

ALL_PROJECTS = "*"
READ = "read"
ADMIN = "admin"


class Forbidden(HeadwaterError):
    """The caller's key does not give this right. `reason` says which kind of right: scope or project."""

    def __init__(self, message: str, *, hint: str, reason: str = "scope") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class QuotaExceeded(HeadwaterError):
    """The caller's key, or its project, has had its share; nothing was done. Try again in `retry_after_s`."""

    category = "TEMPORARY"
    reason = "quota"

    def __init__(self, message: str, *, hint: str, retry_after_s: int) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Caller:
    """Who asks: the project of the key (`*`: the administrator's, all projects), what it may do, its id."""

    project: str
    scopes: frozenset[str]
    key: str = ""


def project_for(caller: Caller, wanted: str | None) -> str:
    """The project that a question is about. Raises Forbidden for another's, or without the right to read."""
    if READ not in caller.scopes:
        raise Forbidden("this key may not read", hint=f"use a key with the scope {READ}")
    return own_project(caller, wanted)


def own_project(caller: Caller, wanted: str | None) -> str:
    """The project wanted, else the key's own. Raises Forbidden for another's."""
    if caller.project == ALL_PROJECTS:
        return wanted or DEFAULT_PROJECT
    if wanted is not None and wanted != caller.project:
        raise Forbidden(
            f"this key belongs to project {caller.project!r}, not to {wanted!r}",
            hint="leave `project` out, or use that project's key",
            reason="project",
        )
    return caller.project


def require(caller: Caller, scope: str) -> None:
    """Raise Forbidden unless the caller's key has the scope."""
    if scope not in caller.scopes:
        raise Forbidden(f"this key lacks the scope {scope}", hint=f"use a key with the scope {scope}")
