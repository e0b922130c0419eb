"""Backpressure: a number of bytes that may be under way at once."""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """Bytes that may be unacknowledged at once; first come, first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_take(self, cost: int) -> bool:
        """Take `cost` bytes if there is room; a cost above the limit fits when nothing else is under way."""
        if self._waiting or (self.used and self.used + cost > self.limit):
            return False
        self.used += cost
        return True

    async def take(self, cost: int) -> None:
        """Wait for room, then take `cost` bytes."""
        if self.try_take(cost):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((cost, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(cost)
            else:
                self._waiting.remove((cost, turn))
                self.give(0)  # a smaller one behind it may fit now
            raise

    def give(self, cost: int) -> None:
        """Return `cost` bytes and let in who fits."""
        self.used -= cost
        while self._waiting:
            wanted, turn = self._waiting[0]
            if self.used and self.used + wanted > self.limit:
                return
            self._waiting.popleft()
            if not turn.done():
                self.used += wanted
                turn.set_result(None)
