"""A key that floods is slowed, and another one that writes to the same partition hardly knows of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streams.keys import Quota, create
from streams.settings import Settings
from tests.streams.gateway.door import door
from tests.streams.gateway.flood import Calm, calm, flooding, outcome

ALONE_S = 4.0
FLOOD_S = 9.0
UP_S = 1.0
RATE = 200
BOUND = 40
"""Times the latency without a flood; measured: docs/benchmarks.md. Without quotas and shares it was a thousand."""


@pytest.fixture
def settings(broker: Settings, tmp_path: Path) -> Settings:
    """Settings of a door with a data folder of its own."""
    return broker.model_copy(update={"data": tmp_path / "door", "kafka": broker.bootstrap})


def quantile(found: Calm, share: float) -> float:
    """A quantile of latencies, in seconds, by nearest rank."""
    ordered = sorted(found.latencies_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def test_a_flood_gets_its_quota_and_others_all_they_ask(settings: Settings) -> None:
    """The flood gets its quota and 429s; each event of the other key is accepted."""
    await _flood(settings, 32, 100)


@pytest.mark.prove
@pytest.mark.parametrize(("connections", "events"), [(8, 10_000), (32, 100)])
async def test_a_flood_hardly_slows_others(settings: Settings, connections: int, events: int) -> None:
    """An event of the other key takes at most a multiple of its time without the flood: on a machine of its own."""
    alone, during = await _flood(settings, connections, events)
    for share in (0.5, 0.99, 1.0):
        assert quantile(during, share) <= BOUND * quantile(alone, share), share


async def _flood(settings: Settings, connections: int, events: int) -> tuple[Calm, Calm]:
    """What the calm key met without and with the flood; both keys had what is promised to them."""
    quiet = create(settings, "acme", ["produce"], "calm")
    loud = create(settings, "acme", ["produce"], "flood", quota=Quota(RATE))
    with door(settings) as url:
        await calm(url, quiet, 2)  # until the door is connected
        before = await calm(url, quiet, ALONE_S)
        with flooding(url, loud, FLOOD_S, connections, events) as flood:
            await asyncio.sleep(UP_S)
            during = await calm(url, quiet, FLOOD_S - 2 * UP_S)
            answers, seconds = await asyncio.to_thread(outcome, flood)
        after = await calm(url, quiet, ALONE_S)
    assert before.refused == during.refused == after.refused == {}
    assert answers.keys() == {"200", "429"}
    most = RATE * (5 + seconds) + events  # what five seconds bring at once, then the rate, then one list
    assert answers["200"] * events <= most
    return Calm(before.latencies_s + after.latencies_s, {}), during
