"""A token bucket that lends: what is taken may bring it into debt, and while it is in debt nothing is to be had.

So a request is taken whole or not at all, however large it is, and a client that waits until the debt
is paid gets its rate in the long run, exactly. The debt is at most one request.
"""

from __future__ import annotations

import math

_GRAIN = 1e-6


class Bucket:
    """Holds up to `burst` tokens, filled at `rate` a second. Times are seconds of one monotonic clock."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._left = burst
        self._at = now

    def change(self, rate: float, burst: float, now: float) -> None:
        """Go on at another rate, with what there is; a debt stays."""
        left = self.left(now)
        self.rate, self.burst, self._left, self._at = rate, burst, min(left, burst), now

    def left(self, now: float) -> float:
        """Tokens to be had; negative: the debt."""
        return min(self.burst, self._left + (now - self._at) * self.rate)

    def take(self, tokens: float, now: float) -> None:
        """Take tokens, into debt if need be."""
        self._left, self._at = self.left(now) - tokens, now

    def wait_s(self, now: float) -> float:
        """Seconds until the debt is paid; 0: something may be taken now."""
        debt = -self.left(now)
        return debt / self.rate if debt > _GRAIN else 0.0

    @property
    def window_s(self) -> int:
        """Seconds in which an empty bucket is full again, rounded up."""
        return max(1, math.ceil(self.burst / self.rate))
