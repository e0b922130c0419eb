"""Who may read the log for himself: a few streams at a time, at most half of them one key's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

READERS = 6
OF_ONE_KEY = READERS // 2
TURN_S = 10.0
"""After so long a reader makes room for one who waits."""


class Turns:
    """Places for readers; `changed` is called when there is one again."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._reading: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()

    def free(self, key: str) -> bool:
        """Whether one more of the key may read."""
        return self._reading.total() < READERS and self._reading[key] < OF_ONE_KEY

    @contextmanager
    def waiting(self, key: str) -> Iterator[None]:
        """While a stream of the key waits."""
        self._waiting[key] += 1
        try:
            yield
        finally:
            self._waiting[key] -= 1

    @contextmanager
    def reading(self, key: str) -> Iterator[Callable[[], bool]]:
        """While a stream of the key reads; gives whether it should make room now."""
        self._reading[key] += 1
        end = time.monotonic() + TURN_S
        try:
            yield lambda: time.monotonic() > end and self._would_help(key)
        finally:
            self._reading[key] -= 1
            self._changed()

    def _would_help(self, key: str) -> bool:
        """Whether somebody waits for what a reader of this key has."""
        return any(
            count and (other == key or self._reading[other] < OF_ONE_KEY)
            for other, count in self._waiting.items()
        )
