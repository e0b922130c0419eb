"""Every fold of the product, in one table; users add theirs by the entry point group `headwater.folds`."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from processors.addressing import Addressing
from processors.anomaly import Anomaly
from processors.fold import Fold
from processors.intake import Intake

ENTRY_POINTS = "headwater.folds"


def folds() -> tuple[Fold[Any], ...]:
    """The product's folds, then the user's."""
    return (
        Intake(),
        Addressing(),
        Anomaly(),
        *(point.load()() for point in entry_points(group=ENTRY_POINTS)),
    )
