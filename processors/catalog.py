"""Every fold, in one table: the product's, then those that packages add (`headwater.folds`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from processors.addressing import Addressing
from processors.anomaly import Anomaly
from processors.fold import Fold
from processors.fold_rules import fold_rules
from processors.intake import Intake
from processors.versions import label
from schemas import catalog, locks
from schemas.extension import HEADWATER, Survey, chosen, require_none

ENTRY_POINTS = "headwater.folds"
OURS: tuple[Callable[[], Fold[Any]], ...] = (Intake, Addressing, Anomaly)


def folds() -> tuple[Fold[Any], ...]:
    """All of them, made anew.

    Raises ConfigurationError where a package's is at fault: without it, what it would have found were lost.
    """
    require_none([*catalog.survey().faults, *locks.survey().faults, *survey().faults])
    return usable()


def usable() -> tuple[Fold[Any], ...]:
    """Those that nothing is wrong with, made anew."""
    return (*(make() for make in OURS), *(added.value() for added in survey().found))


@cache
def survey() -> Survey[Callable[[], Fold[Any]]]:
    """What packages add: how to make each fold, also other versions of one, and what is wrong with the rest."""
    ours = {label(make()): HEADWATER for make in OURS}
    return chosen(ENTRY_POINTS, "fold", ours, fold_rules, called=label)
