"""How much a key and its project may send, in events and in bytes: counted in memory, by this process alone."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from projections.access import Caller, QuotaExceeded
from streams.gateway.auth import PAUSE_S
from streams.gateway.bucket import Bucket
from streams.keys import ADMIN_ID, Keyring, Quota
from streams.settings import Settings

BURST_S = 5.0
"""A bucket whose burst is not set holds what this many seconds bring: by then a client that waits for
whole seconds (Retry-After) has not let anything overflow."""

_TIMER_S = 0.002  # uvloop's timers know whole milliseconds, and may be early by one


class Policy(NamedTuple):
    """One limit that a caller has: whose it is (key or project), what it counts (events or bytes).

    `own` is the key's equal part of what its project may send: while that lasts, the key is let in
    however deep others have brought the project into debt, and they wait the longer.
    """

    whose: str
    unit: str
    bucket: Bucket
    own: Bucket | None = None

    def left(self, now: float) -> float:
        """What the caller may take now; negative: the debt."""
        left = self.bucket.left(now)
        return left if self.own is None else max(left, self.own.left(now))

    def wait_s(self, now: float) -> float:
        """Seconds until the caller may take something; 0: now."""
        wait_s = self.bucket.wait_s(now)
        return wait_s if self.own is None else min(wait_s, self.own.wait_s(now))

    def take(self, amount: float, now: float) -> None:
        """Take it, into debt if need be."""
        self.bucket.take(amount, now)
        if self.own is not None:
            self.own.take(amount, now)


class Quotas:
    """Limits of callers, by their keys and projects; the administrator's key has none.

    `clock` gives seconds and never goes back.
    """

    def __init__(
        self, settings: Settings, keyring: Keyring, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._default = Quota(settings.quota_events_per_second, None, settings.quota_bytes_per_second)
        self._keyring = keyring
        self._clock = clock
        self._buckets: dict[tuple[str, str, str], Bucket] = {}
        self._patient: set[str] = set()

    async def patience(self, caller: Caller) -> None:
        """Let a short debt pass. Raise QuotaExceeded, after a pause, while a limit is in a longer one.

        The pause is for the others: whoever ignores Retry-After has fewer refusals to be served. One
        request of a key waits for its debt, the next ones are refused: they would all come in at once.
        """
        wait_s, policy = self._longest_wait(caller)
        if policy is None:
            return
        if wait_s > PAUSE_S or caller.key in self._patient:
            await asyncio.sleep(PAUSE_S)
            raise _exceeded(policy, max(wait_s - PAUSE_S, 0.0))
        self._patient.add(caller.key)
        try:
            await asyncio.sleep(wait_s + _TIMER_S)
        finally:
            self._patient.remove(caller.key)
        self.check(caller)

    def check(self, caller: Caller) -> None:
        """Raise QuotaExceeded while a limit of the caller is in debt."""
        wait_s, policy = self._longest_wait(caller)
        if policy is not None:
            raise _exceeded(policy, wait_s)

    def take(self, caller: Caller, events: int, size: int) -> None:
        """Count a request of so many events and bytes, whatever will come of them; into debt if need be."""
        now = self._clock()
        for policy in self._policies(caller, now):
            policy.take(events if policy.unit == "events" else size, now)

    def headers(self, caller: Caller) -> dict[str, str]:
        """What is left (draft-ietf-httpapi-ratelimit-headers-11); nothing for who has no limits.

        That draft knows no unit for events: each counts as one request.
        """
        now = self._clock()
        policies = self._policies(caller, now)
        if not policies:
            return {}
        return {
            "RateLimit-Policy": ", ".join(_policy(p) for p in policies),
            "RateLimit": ", ".join(_left(p, now) for p in policies),
        }

    def _longest_wait(self, caller: Caller) -> tuple[float, Policy | None]:
        now = self._clock()
        waits = [(policy.wait_s(now), policy) for policy in self._policies(caller, now)]
        return max((w for w in waits if w[0]), key=lambda w: w[0], default=(0.0, None))

    def _policies(self, caller: Caller, now: float) -> list[Policy]:
        if caller.key == ADMIN_ID:
            return []
        of_key, of_project, keys = self._keyring.quotas(caller)
        found = []
        for unit, rate, burst in _limits(of_key, self._default):
            found.append(Policy("key", unit, self._bucket(("key", caller.key, unit), rate, burst, now)))
        for unit, rate, burst in _limits(of_project, Quota()):
            bucket = self._bucket(("project", caller.project, unit), rate, burst, now)
            own = self._bucket(("part", caller.key, unit), rate / keys, burst / keys, now)
            found.append(Policy("project", unit, bucket, own))
        return found

    def _bucket(self, place: tuple[str, str, str], rate: float, burst: float, now: float) -> Bucket:
        bucket = self._buckets.get(place)
        if bucket is None:
            bucket = self._buckets[place] = Bucket(rate, burst, now)
        elif (bucket.rate, bucket.burst) != (rate, burst):
            bucket.change(rate, burst, now)
        return bucket


def _exceeded(policy: Policy, wait_s: float) -> QuotaExceeded:
    whole_s = max(1, math.ceil(wait_s))
    return QuotaExceeded(
        f"this {policy.whose} has sent more than its {policy.bucket.rate:,g} {policy.unit} a second",
        hint=f"nothing was written; send it again in {whole_s} s",
        retry_after_s=whole_s,
    )


def _limits(quota: Quota, default: Quota) -> Iterator[tuple[str, float, float]]:
    """Unit, rate and burst of each limit that there is."""
    for unit, rate, otherwise, burst in (
        ("events", quota.events_per_second, default.events_per_second, quota.burst),
        ("bytes", quota.bytes_per_second, default.bytes_per_second, None),
    ):
        limit = otherwise if rate is None else rate
        if limit:
            yield unit, limit, burst or max(1, limit * BURST_S)


def _policy(policy: Policy) -> str:
    unit = ';qu="content-bytes"' if policy.unit == "bytes" else ""
    return f'"{policy.whose}-{policy.unit}";q={int(policy.bucket.burst)}{unit};w={policy.bucket.window_s}'


def _left(policy: Policy, now: float) -> str:
    window_s = math.ceil(policy.wait_s(now)) or policy.bucket.window_s
    return f'"{policy.whose}-{policy.unit}";r={max(0, int(policy.left(now)))};t={window_s}'
