"""The versions of folds that are installed: several of one name may be, and one is in force at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from processors.fold import Fold
from schemas.errors import ConfigurationError, HeadwaterError

Versions = Mapping[int, Fold[Any]]
"""Of one fold, by number, ascending."""


class NoSuchFold(HeadwaterError):
    """No version of a fold is installed here."""


def by_name(folds: Iterable[Fold[Any]]) -> dict[str, Versions]:
    """The installed versions of each fold. Raises ConfigurationError where they cannot stand for one another."""
    found: dict[str, dict[int, Fold[Any]]] = {}
    for fold in folds:
        versions = found.setdefault(fold.name, {})
        other = versions.setdefault(fold.version, fold)
        if other is not fold:
            raise ConfigurationError(
                f"fold {label(fold)} is installed twice: {_place(other)} and {_place(fold)}",
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
    return {name: dict(sorted(versions.items())) for name, versions in found.items()}


def versions_of(installed: Mapping[str, Versions], fold: str) -> Versions:
    """Those of one fold. Raises NoSuchFold."""
    if fold not in installed:
        raise NoSuchFold(f"there is no fold {fold} here", hint=f"there are: {', '.join(sorted(installed))}")
    return installed[fold]


def label(fold: Fold[Any]) -> str:
    """What tells one from all others."""
    return f"{fold.name} version {fold.version}"


def can_migrate(new: Fold[Any], old: Fold[Any]) -> bool:
    """Whether a version can take over the state of another; else it folds the log anew."""
    return new.state is not None and old.state is not None and old.version in new.migrates


def _place(fold: Fold[Any]) -> str:
    kind = type(fold)
    return f"{kind.__module__}.{kind.__qualname__}"


def _topics(fold: Fold[Any]) -> str:
    return ", ".join(sorted(t.name for t in fold.topics))
