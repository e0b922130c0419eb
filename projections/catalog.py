"""Every view of the product, in one table; users add theirs by the entry point group `headwater.views`."""

from __future__ import annotations

from importlib.metadata import entry_points

from projections.agents import Agents
from projections.anomalies import Anomalies
from projections.components import Components
from projections.dead_letters import DeadLetters
from projections.effects import Effects
from projections.events import Events
from projections.runs import Runs
from projections.view import View
from schemas.errors import ConfigurationError

ENTRY_POINTS = "headwater.views"


def views() -> tuple[View, ...]:
    """The product's views, then the user's. Raises ConfigurationError where two have one name."""
    ours = (Events(), Components(), Agents(), Runs(), Anomalies(), DeadLetters(), Effects())
    found = (*ours, *(point.load()() for point in entry_points(group=ENTRY_POINTS)))
    names = [view.name for view in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"two views are called {', '.join(twice)}",
            hint=f"rename yours, or uninstall the package that adds it by the entry point {ENTRY_POINTS}",
        )
    return found


def view_named(name: str) -> View:
    """The view of that name. Raises ConfigurationError where there is none."""
    for view in views():
        if view.name == name:
            return view
    raise ConfigurationError(
        f"there is no view {name!r}", hint=f"one of {', '.join(v.name for v in views())}"
    )
