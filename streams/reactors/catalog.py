"""Every reactor of the product, in one table; users add theirs by the entry point group `headwater.reactors`."""

from __future__ import annotations

from importlib.metadata import entry_points

from schemas.errors import ConfigurationError
from streams.reactors.dispatcher import Dispatcher
from streams.reactors.notifier import Notifier
from streams.reactors.reactor import Reactor

ENTRY_POINTS = "headwater.reactors"


def reactors() -> tuple[Reactor, ...]:
    """The product's reactors, then the user's. Raises ConfigurationError where two have one name."""
    found = (Notifier(), Dispatcher(), *(point.load()() for point in entry_points(group=ENTRY_POINTS)))
    names = [reactor.name for reactor in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"two reactors are called {', '.join(twice)}",
            hint=f"rename yours, or uninstall the package that adds it by the entry point {ENTRY_POINTS}",
        )
    return found
