"""Reads whole data sets for tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TypeVar

from schemas.events import Event
from streams.replay import FORMATS, BadRecord, Options, Recorded

E = TypeVar("E", bound=Event)


def items(name: str, path: Path, options: Options | None = None) -> list[Recorded | BadRecord]:
    """Everything that a format reads."""
    return list(FORMATS[name].read(path, options or Options()))


def good(name: str, path: Path, options: Options | None = None) -> list[Recorded]:
    """Everything that a format reads, where nothing may be bad."""
    found = items(name, path, options)
    bad = [item for item in found if isinstance(item, BadRecord)]
    assert not bad
    return [item for item in found if isinstance(item, Recorded)]


def bad_of(name: str, path: Path) -> list[tuple[int, str]]:
    """Line and reason of each bad record."""
    return [(item.line, item.reason) for item in items(name, path) if isinstance(item, BadRecord)]


def of_type(recorded: list[Recorded], event_type: type[E]) -> list[E]:
    """The events of one type, in order."""
    return [item.event for item in recorded if isinstance(item.event, event_type)]


def counts(recorded: list[Recorded]) -> Counter[str]:
    """Events by type."""
    return Counter(type(item.event).__name__ for item in recorded)
