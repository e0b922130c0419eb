"""Backpressure: a number of bytes that may be under way at once, and shares of it."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class Budget:
    """Bytes that may be unacknowledged at once; first come, first served.

    What is taken of a share (`within` a larger budget) is taken of the whole as well: who shares it
    waits for his own share to become free first, and so cannot queue up before others.
    """

    def __init__(self, limit: int, within: Budget | None = None) -> None:
        self.limit: int = limit if within is None else min(limit, within.limit)
        self.used = 0
        self._within = within
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_take(self, cost: int) -> bool:
        """Take `cost` bytes if there is room; a cost above the limit fits when nothing else is under way."""
        if not self._fits(cost) or (self._within is not None and not self._within.try_take(cost)):
            return False
        self.used += cost
        return True

    async def take(self, cost: int) -> None:
        """Wait for room, then take `cost` bytes."""
        if self.try_take(cost):
            return
        await self._own(cost)
        if self._within is not None:
            try:
                await self._within.take(cost)
            except asyncio.CancelledError:
                self._let_in(cost)
                raise

    def give(self, cost: int) -> None:
        """Return `cost` bytes and let in who fits."""
        self._let_in(cost)
        if self._within is not None:
            self._within.give(cost)

    async def _own(self, cost: int) -> None:
        if self._fits(cost):  # it is the whole that has no room
            self.used += cost
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((cost, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # it was passed over already
                    self._waiting.remove((cost, turn))
                self._let_in(0)  # a smaller one behind it may fit now
            else:
                self._let_in(cost)
            raise

    def _fits(self, cost: int) -> bool:
        return not self._waiting and not (self.used and self.used + cost > self.limit)

    def _let_in(self, freed: int) -> None:
        self.used -= freed
        while self._waiting:
            wanted, turn = self._waiting[0]
            if self.used and self.used + wanted > self.limit:
                return
            self._waiting.popleft()
            if not turn.done():
                self.used += wanted
                turn.set_result(None)
