"""The versions of folds that are installed: several of one name may be, and one is in force at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from processors.fold import Fold
from schemas.errors import ConfigurationError

Versions = Mapping[int, Fold[Any]]
"""Of one fold, by number, ascending."""


def by_name(folds: Iterable[Fold[Any]]) -> dict[str, Versions]:
    """The installed versions of each fold. Raises ConfigurationError where they cannot stand for one another."""
    found: dict[str, dict[int, Fold[Any]]] = {}
    for fold in folds:
        versions = found.setdefault(fold.name, {})
        other = versions.setdefault(fold.version, fold)
        if other is not fold:
            raise ConfigurationError(
                f"fold {fold.name} version {fold.version} is installed twice: "
                f"{_place(other)} and {_place(fold)}",
                hint="give one of them another version, or another name",
            )
        first = next(iter(versions.values()))
        if {t.name for t in fold.topics} != {t.name for t in first.topics}:
            raise ConfigurationError(
                f"fold {fold.name}: version {first.version} reads {_topics(first)}, "
                f"version {fold.version} reads {_topics(fold)}",
                hint="versions of a fold read the same topics, or no offset could divide their work: "
                "give the other one another name",
            )
        if fold.version < 1:
            raise ConfigurationError(
                f"fold {fold.name}: version {fold.version} is none", hint="versions are 1, 2, 3, …"
            )
    return {name: dict(sorted(versions.items())) for name, versions in found.items()}


def can_migrate(new: Fold[Any], old: Fold[Any]) -> bool:
    """Whether a version can take over the state of another; else it folds the log anew."""
    return new.state is not None and old.state is not None and old.version in new.migrates


def _place(fold: Fold[Any]) -> str:
    kind = type(fold)
    return f"{kind.__module__}.{kind.__qualname__}"


def _topics(fold: Fold[Any]) -> str:
    return ", ".join(sorted(t.name for t in fold.topics))
