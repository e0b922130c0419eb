"""Quotas as the operator sets them: checked, and those of whole projects kept beside the keys."""

from __future__ import annotations

import math

from schemas.errors import ConfigurationError
from streams.keys.kept import Quota, changing, check_project, read
from streams.settings import Settings


def checked(quota: Quota) -> Quota:
    """The same. Raises ConfigurationError where it makes no sense."""
    for name in Quota.__struct_fields__:
        value = getattr(quota, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ConfigurationError(f"{name.replace('_', ' ')}: {value:g} is no limit", hint="0 sets none")
    if quota.burst is not None and quota.burst < max(quota.events_per_second or math.inf, 1):
        raise ConfigurationError(
            f"a burst of {quota.burst:g} events is less than one second brings, or there is no limit to it",
            hint="clients wait for whole seconds (Retry-After), and would never get their rate",
        )
    return quota


def set_quota(settings: Settings, project: str, quota: Quota) -> None:
    """Limit what all keys of a project may send together. Raises ConfigurationError."""
    check_project(project)
    checked(quota)
    if not (quota.events_per_second or quota.bytes_per_second):
        raise ConfigurationError(
            f"no limit for project {project}", hint="give --events-per-second or --bytes-per-second"
        )
    with changing(settings) as file:
        file.projects[project] = quota


def list_quotas(settings: Settings) -> dict[str, Quota]:
    """Quotas by project."""
    return dict(sorted(read(settings).projects.items()))


def remove_quota(settings: Settings, project: str) -> None:
    """Let a project's keys be limited by their own quotas alone. Raises ConfigurationError."""
    with changing(settings) as file:
        if file.projects.pop(project, None) is None:
            raise ConfigurationError(f"project {project} has no quota", hint="see `headwater quotas list`")
