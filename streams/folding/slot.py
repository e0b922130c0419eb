"""One fold in one partition: its states, and what is measured of it."""

from __future__ import annotations

from typing import Any

from processors.fold import Fold


class FoldStats:
    """What is measured of one fold in one partition; it outlives engines, so that counters never fall."""

    def __init__(self) -> None:
        self.events = self.outputs = self.nanoseconds = self.dead_letters = 0


class Slot:
    """One fold in one partition: its states by key, and what is measured of it."""

    def __init__(self, fold: Fold[Any]) -> None:
        self.fold = fold
        self.states: dict[str, Any] = {}
        self.dirty: dict[str, None] = {}
        """Keys changed since they were last saved, in an order that every run repeats."""
        self.covered: dict[str, int] = {}
        """While restoring: the position up to which a key's snapshot holds."""
        self.floor = 0
        """While restoring: every change of this fold below this offset is in the snapshots."""
        self.stats = FoldStats()
