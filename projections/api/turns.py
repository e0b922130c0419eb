"""Queries of one key wait for each other, so that one dashboard does not have all connections to the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from projections.access import Caller, QuotaExceeded

READING = 4
"""Queries of one key that the database answers at once: half of its connections (`projections.store`)."""
OPEN = 64
"""Questions of one key that may be open: answered, waiting for their turn, or for `at_least`."""


class Turns:
    """Counts the questions of each key."""

    def __init__(self) -> None:
        self._reading: dict[str, asyncio.Semaphore] = {}
        self._open: dict[str, int] = {}

    @asynccontextmanager
    async def question(self, caller: Caller) -> AsyncIterator[asyncio.Semaphore]:
        """While a question is open; to be read with the semaphore. Raises QuotaExceeded."""
        if self._open.setdefault(caller.key, 0) >= OPEN:
            raise QuotaExceeded(
                f"this key has {OPEN} questions open", hint="wait for their answers", retry_after_s=1
            )
        self._open[caller.key] += 1
        try:
            yield self._reading.setdefault(caller.key, asyncio.Semaphore(READING))
        finally:
            self._open[caller.key] -= 1
