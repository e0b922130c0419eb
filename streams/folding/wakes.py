"""The wakes that folds have asked for and not yet been given: one a fold and key, by clock."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

LIVE = ""
"""The clock of all live projects; a replayed project's clock has its name."""
_SOON_S = 0.001
_STALE = 64


class Wakes:
    """A heap a clock. Times are seconds since 1970."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], tuple[float, str]] = {}
        self._heaps: dict[str, list[tuple[float, str, str]]] = {}

    def ask(self, fold: str, key: str, at: float, clock: str, now: float) -> None:
        """Wake (fold, key) at `at`, instead of when it was asked before. Raises ValueError on NaN."""
        if math.isnan(at):
            raise ValueError(f"{fold} asked to be woken at {at}")
        # Never in the past: a wake that a snapshot holds must not be due before that snapshot.
        self.put(fold, key, max(float(at), now + _SOON_S), clock)

    def put(self, fold: str, key: str, at: float, clock: str) -> None:
        """As `ask`, for a time that is known to lie ahead."""
        self._open[fold, key] = (at, clock)
        heap = self._heaps.setdefault(clock, [])
        heapq.heappush(heap, (at, fold, key))
        if len(heap) > _STALE + 2 * len(self._open):
            # Most were put off since: a fold that waits for silence asks anew at each event.
            heap[:] = {entry for entry in heap if self._is_open(entry, clock)}
            heapq.heapify(heap)

    def of(self, fold: str, key: str) -> tuple[float | None, str]:
        """When, and by which clock; None where nothing was asked."""
        return self._open.get((fold, key), (None, LIVE))

    def replace(self, fold: str, other: Wakes) -> None:
        """Forget what the fold asked for, and take over what it asked for there."""
        for entry in [entry for entry in self._open if entry[0] == fold]:
            del self._open[entry]
        for (name, key), (at, clock) in other._open.items():
            if name == fold:
                self.put(name, key, at, clock)

    def next(self, clock: str) -> float | None:
        """When somebody wants to be woken next."""
        heap = self._heaps.get(clock)
        while heap and not self._is_open(heap[0], clock):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, clock: str, at: float) -> Iterator[tuple[float, str, str]]:
        """(asked for, fold, key) of all up to `at`, in that order; each is closed when it is given."""
        heap = self._heaps.get(clock)
        while heap and heap[0][0] <= at:
            entry = heapq.heappop(heap)
            if self._is_open(entry, clock):
                del self._open[entry[1], entry[2]]
                yield entry

    def _is_open(self, entry: tuple[float, str, str], clock: str) -> bool:
        at, fold, key = entry
        return self._open.get((fold, key)) == (at, clock)
