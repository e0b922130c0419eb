"""What installed packages add to this instance, all kinds of it, and what is wrong with any of it."""

from __future__ import annotations

from typing import Any

from processors import catalog as folds
from projections import catalog as views
from schemas import catalog as events
from schemas import locks
from schemas.extension import Fault, Survey, require_none
from streams.reactors import catalog as reactors


def surveys() -> dict[str, Survey[Any]]:
    """What was found of each kind."""
    return {
        "topics": events.survey(),
        "schemas": locks.survey(),
        "folds": folds.survey(),
        "views": views.survey(),
        "reactors": reactors.survey(),
    }


def faults() -> list[Fault]:
    """What is wrong, causes before what follows from them."""
    return [fault for survey in surveys().values() for fault in survey.faults]


def require_whole() -> None:
    """Raise ConfigurationError where something that a package adds cannot be used."""
    require_none(faults())
