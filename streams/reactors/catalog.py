"""Every reactor, in one table: the product's, then those that packages add (`headwater.reactors`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from processors.fold_rules import NAME, read_rules, written_rules
from schemas import catalog, locks
from schemas.extension import HEADWATER, Survey, chosen, require_none
from streams.reactors.dispatcher import Dispatcher
from streams.reactors.notifier import Notifier
from streams.reactors.reactor import Reactor

ENTRY_POINTS = "headwater.reactors"
OURS: tuple[Callable[[], Reactor], ...] = (Notifier, Dispatcher)


def reactors() -> tuple[Reactor, ...]:
    """All of them, made anew. Raises ConfigurationError where a package's is at fault."""
    require_none([*catalog.survey().faults, *locks.survey().faults, *survey().faults])
    return usable()


def usable() -> tuple[Reactor, ...]:
    """Those that nothing is wrong with, made anew."""
    return (*(make() for make in OURS), *(added.value() for added in survey().found))


@cache
def survey() -> Survey[Callable[[], Reactor]]:
    """What packages add: how to make each reactor, and what is wrong with the rest."""
    return chosen(ENTRY_POINTS, "reactor", {make().name: HEADWATER for make in OURS}, _rules)


def _rules(value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Reactor):
        yield (
            f"{value!r} is no reactor",
            "let the entry point name a class derived from streams.reactors.reactor.Reactor",
        )
        return
    missing = [name for name in ("name", "topics", "accepts") if not hasattr(value, name)]
    if missing:
        yield (
            f"it does not say its {', '.join(missing)}",
            "see streams/reactors/reactor.py for what a reactor declares",
        )
        return
    if not NAME.fullmatch(str(value.name)):
        yield (
            f"{value.name!r} is no name for a reactor",
            "small letters, digits, '.', '_' and '-', 64 at most",
        )
    yield from read_rules("reactor", value.name, value.topics, value.accepts)
    yield from written_rules("reactor", value.name, value.emits)
