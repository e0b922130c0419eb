"""Every view, in one table: the product's, then those that packages add (`headwater.views`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from sqlalchemy import MetaData

from projections.agents import Agents
from projections.anomalies import Anomalies
from projections.components import Components
from projections.dead_letters import DeadLetters
from projections.effects import Effects
from projections.events import Events
from projections.generations import METADATA
from projections.runs import Runs
from projections.view import View
from schemas import catalog, locks
from schemas import topics as t
from schemas.errors import ConfigurationError
from schemas.extension import HEADWATER, Survey, chosen, require_none
from schemas.topics import Topic

ENTRY_POINTS = "headwater.views"
OURS: tuple[Callable[[], View], ...] = (Events, Components, Agents, Runs, Anomalies, DeadLetters, Effects)
_SUFFIX = "_0"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def views() -> tuple[View, ...]:
    """All of them, made anew. Raises ConfigurationError where a package's is at fault."""
    require_none([*catalog.survey().faults, *locks.survey().faults, *survey().faults])
    return usable()


def usable() -> tuple[View, ...]:
    """Those that nothing is wrong with, made anew."""
    return (*(make() for make in OURS), *(added.value() for added in survey().found))


def view_named(name: str) -> View:
    """The view of that name. Raises ConfigurationError where there is none."""
    for view in usable():
        if view.name == name:
            return view
    raise ConfigurationError(
        f"there is no view {name!r}", hint=f"one of {', '.join(v.name for v in usable())}"
    )


@cache
def survey() -> Survey[Callable[[], View]]:
    """What packages add: how to make each view, and what is wrong with the rest."""
    taken = {table for make in OURS for table in _tables(make())} | set(METADATA.tables)

    def apart(view: View) -> Iterator[tuple[str, str]]:
        for table in _tables(view):
            if not table.endswith(_SUFFIX):
                yield (
                    f"view {view.name} has a table {table}",
                    "let its name end in `suffix`: generations are told apart by it",
                )
            if table in taken:
                yield f"view {view.name} has a table that another view has", "begin its name with the view's"
            taken.add(table)

    return chosen(ENTRY_POINTS, "view", {make().name: HEADWATER for make in OURS}, _rules, apart)


def _tables(view: View) -> list[str]:
    metadata = MetaData()
    view.tables(metadata, _SUFFIX)
    return list(metadata.tables)


def _rules(value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(value, View):
        yield f"{value!r} is no view", "let the entry point name a class derived from projections.view.View"
        return
    missing = [name for name in ("name", "about", "topics") if not hasattr(value, name)]
    if missing:
        yield f"it does not say its {', '.join(missing)}", "see projections/view.py for what a view declares"
        return
    if not _NAME.fullmatch(value.name):
        yield f"{value.name!r} is no name for a view", "small letters, digits and '_', 40 at most"
        return
    for topic in value.topics:
        if not isinstance(topic, Topic) or catalog.topics().get(topic.name) != topic:
            named = topic.name if isinstance(topic, Topic) else repr(topic)
            yield f"view {value.name} reads topic {named}, which nobody declares", t.UNDECLARED
