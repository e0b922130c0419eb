"""What one key may have under way at the doors, so that the others do not wait for it.

Whoever comes second waits: first of all for others of his own key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from projections.access import Caller
from streams.producing.budget import Budget
from streams.producing.producer import Producer

RECORD_BYTES = 2 * 1024 * 1024
"""Of records on their way to Kafka: two of its batches, so that one is filled while the other is written.
An event waits behind at most so much of each other key."""
_BODIES = 2


class Share:
    """One key's: bytes of bodies in memory, one request at a time checked, bytes of records on their way."""

    def __init__(self, producer: Producer, largest_body: int) -> None:
        self.turn = asyncio.Lock()
        self.records = producer.share(RECORD_BYTES)
        self._bodies = Budget(_BODIES * largest_body)

    @asynccontextmanager
    async def body(self, size: int) -> AsyncIterator[None]:
        """While a request with a body of so many bytes is worked on."""
        await self._bodies.take(size)
        try:
            yield
        finally:
            self._bodies.give(size)


class Shares:
    """Each key's share."""

    def __init__(self, producer: Producer, largest_body: int) -> None:
        self._producer = producer
        self._largest_body = largest_body
        self._of: dict[str, Share] = {}

    def of(self, caller: Caller) -> Share:
        """That of the caller's key."""
        share = self._of.get(caller.key)
        if share is None:
            share = self._of[caller.key] = Share(self._producer, self._largest_body)
        return share
