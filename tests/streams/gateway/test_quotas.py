"""Which limits a caller has, what he is told of them, and that keys of one project share it evenly."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from projections.access import Caller, QuotaExceeded
from streams.gateway.quotas import Quotas
from streams.keys import Keyring, Quota, admin_key, create, limit, list_keys
from streams.keys.quotas import remove_quota, set_quota
from streams.settings import Settings


class Doors:
    """Quotas of a data folder whose clock stands still unless it is moved."""

    def __init__(self, folder: Path, **settings: float) -> None:
        self.settings = Settings(data=folder, api_key=None, **settings)  # type: ignore[arg-type]
        self.now = 1_000.0
        self.ring = Keyring(self.settings)
        self.quotas = Quotas(self.settings, self.ring, lambda: self.now)

    def key(self, project: str, name: str, quota: Quota | None = None) -> Caller:
        """A new key's caller."""
        return self.known(create(self.settings, project, ["produce"], name, quota=quota))

    def known(self, key: str) -> Caller:
        """Who calls with this key; what the files say counts from here on."""
        identity = self.ring.identify(key)
        assert identity is not None
        return identity.caller

    def refresh(self) -> None:
        """What the files say counts from here on."""
        self.ring.identify("")

    def wait_s(self, caller: Caller) -> int:
        """Retry-After of a request of now; 0: it is let in."""
        try:
            self.quotas.check(caller)
        except QuotaExceeded as error:
            return error.retry_after_s
        return 0


@pytest.fixture
def doors(tmp_path: Path) -> Doors:
    """Default: 100 events/s and 1,000 bytes/s."""
    return Doors(tmp_path, quota_events_per_second=100, quota_bytes_per_second=1_000)


def test_the_default_holds_for_every_key_by_itself(doors: Doors) -> None:
    """One key's events are not another's; what five seconds bring may come at once, and one request more."""
    one, other = doors.key("acme", "one"), doors.key("acme", "other")
    doors.quotas.take(one, 500, 0)
    assert doors.wait_s(one) == 0
    doors.quotas.take(one, 250, 0)
    assert doors.wait_s(one) == 3
    assert doors.wait_s(other) == 0
    doors.now += 2.5
    assert doors.wait_s(one) == 0


def test_bytes_count_as_events_do(doors: Doors) -> None:
    """Whichever limit has to be waited for longer is the one that is told."""
    key = doors.key("acme", "one")
    doors.quotas.take(key, 600, 15_000)
    with pytest.raises(QuotaExceeded, match="1,000 bytes a second") as told:
        doors.quotas.check(key)
    assert told.value.retry_after_s == 10
    assert "10 s" in told.value.hint


def test_a_keys_own_quota_goes_before_the_default(doors: Doors) -> None:
    """Lower, higher, or none at all; where it is silent the default holds."""
    low = doors.key("acme", "low", Quota(1, 1))
    free = doors.key("acme", "free", Quota(0, None, 0))
    doors.quotas.take(low, 2, 10_000)
    doors.quotas.take(free, 10**6, 10**9)
    assert doors.wait_s(low) == 5, "bytes have the default"
    assert doors.wait_s(free) == 0


def test_without_a_default(tmp_path: Path) -> None:
    """0 sets no limit, and nothing is told of one."""
    doors = Doors(tmp_path, quota_events_per_second=0, quota_bytes_per_second=0)
    key = doors.key("acme", "one")
    doors.quotas.take(key, 10**6, 10**9)
    assert doors.wait_s(key) == 0
    assert doors.quotas.headers(key) == {}


def test_the_administrator_is_not_limited(doors: Doors) -> None:
    """His key has no limit, and nothing is told of one."""
    admin = doors.known(admin_key(doors.settings))
    doors.quotas.take(admin, 10**6, 10**9)
    assert doors.wait_s(admin) == 0
    assert doors.quotas.headers(admin) == {}


def test_a_changed_quota_counts_at_once(doors: Doors) -> None:
    """A running gateway goes over to what the operator sets, and back."""
    key = doors.key("acme", "one", Quota(10, 10))
    doors.quotas.take(key, 110, 0)
    assert doors.wait_s(key) == 10
    limit(doors.settings, list_keys(doors.settings)[0].id, Quota(50))
    doors.refresh()
    assert doors.wait_s(key) == 2
    set_quota(doors.settings, "acme", Quota(1))
    doors.refresh()
    doors.quotas.take(key, 95, 0)
    assert doors.wait_s(key) == 90, "the project's is the longer wait now"
    remove_quota(doors.settings, "acme")
    doors.refresh()
    assert doors.wait_s(key) == 4


def test_a_projects_quota_is_that_of_all_its_keys(doors: Doors) -> None:
    """Together they get its rate; other projects are not touched."""
    set_quota(doors.settings, "acme", Quota(10))
    one, two = doors.key("acme", "one"), doors.key("acme", "two")
    stranger = doors.key("other", "one")
    for caller in (one, two):
        doors.quotas.take(caller, 45, 0)
    assert doors.wait_s(one) == doors.wait_s(two) == 4
    assert doors.wait_s(stranger) == 0


def test_each_key_is_sure_of_its_part_of_the_project(doors: Doors) -> None:
    """One key that floods brings the project into debt, and waits for it alone; the total stays the project's.

    The flood takes 10 events whenever it is let in, the other key 1 event every 200 ms: half of its part.
    """
    set_quota(doors.settings, "acme", Quota(20))
    flood, calm = doors.key("acme", "flood"), doors.key("acme", "calm")
    sent = {flood: 0, calm: 0}
    refused = {flood: 0, calm: 0}
    for tick in range(6_000):
        for caller, events in ((flood, 10), (calm, 1)):
            if caller is calm and tick % 20:
                continue
            if doors.wait_s(caller):
                refused[caller] += 1
            else:
                doors.quotas.take(caller, events, 0)
                sent[caller] += events
        doors.now += 0.01
    assert refused[calm] == 0
    assert sent[calm] == 300
    assert refused[flood] > 5_000
    assert sent[flood] + sent[calm] == pytest.approx(60 * 20 + 100, abs=20)


def test_what_is_told(doors: Doors) -> None:
    """RateLimit-Policy says burst and window of each limit; RateLimit what is left, or how long it is not."""
    set_quota(doors.settings, "acme", Quota(1_000, 3_500))
    key = doors.key("acme", "one", Quota(200, 250))
    doors.quotas.take(key, 50, 400)
    assert doors.quotas.headers(key) == {
        "RateLimit-Policy": '"key-events";q=250;w=2, "key-bytes";q=5000;qu="content-bytes";w=5, '
        '"project-events";q=3500;w=4',
        "RateLimit": '"key-events";r=200;t=2, "key-bytes";r=4600;t=5, "project-events";r=3450;t=4',
    }
    doors.quotas.take(key, 500, 0)
    assert doors.quotas.headers(key)["RateLimit"].startswith('"key-events";r=0;t=2, ')
    assert doors.wait_s(key) == 2


async def test_patience(tmp_path: Path) -> None:
    """A debt of a moment is waited for; a longer one is refused after a pause, with the wait that is left."""
    doors = Doors(tmp_path, quota_events_per_second=100)
    quotas = Quotas(doors.settings, doors.ring)
    key = doors.key("acme", "one")
    await quotas.patience(key)
    quotas.take(key, 505, 0)
    began = time.monotonic()
    await quotas.patience(key)
    assert time.monotonic() - began > 0.02
    quotas.take(key, 1_000, 0)
    began = time.monotonic()
    with pytest.raises(QuotaExceeded) as told:
        await quotas.patience(key)
    assert time.monotonic() - began > 0.1
    assert told.value.retry_after_s in (9, 10)


async def test_one_request_waits_the_others_are_refused(tmp_path: Path) -> None:
    """Of many requests of one key that meet a short debt one comes in when it is paid, not all of them."""
    doors = Doors(tmp_path, quota_events_per_second=100)
    quotas = Quotas(doors.settings, doors.ring)
    key, other = doors.key("acme", "one"), doors.key("acme", "other")
    for caller in (key, other):
        quotas.take(caller, 510, 0)
    waiting = [quotas.patience(key) for _ in range(10)]
    *came, others = await asyncio.gather(*waiting, quotas.patience(other), return_exceptions=True)
    assert others is None, "another key waits for itself"
    assert came.count(None) == 1
    refused = [e for e in came if isinstance(e, QuotaExceeded)]
    assert [e.retry_after_s for e in refused] == [1] * 9
