from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas import events as e
from schemas.errors import BrokerUnavailable, ConfigurationError, InvalidEvent
from streams import simulate
from streams.producing.outgoing import Outgoing
from streams.replay import Sink, from_json_line
from streams.settings import Settings
from streams.supervision.status import read_all


class Kept:
    """Keeps what was sent; fails as often as it is told to, with what it is told."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.tried: list[list[Outgoing]] = []
        self.sent: list[Outgoing] = []

    async def emit_many(self, items: Sequence[Outgoing]) -> None:
        self.tried.append(list(items))
        if self.errors:
            raise self.errors.pop(0)
        self.sent += items


class Silent:
    """Kafka that never answers."""

    async def emit_many(self, items: Sequence[Outgoing]) -> None:
        await asyncio.sleep(3600)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a data folder of their own."""
    return Settings(data=tmp_path)


async def simulated(settings: Settings, sink: Sink, seconds: float, **more: object) -> float:
    """Simulate for a time; returns how long stopping took, seconds."""
    stop = asyncio.Event()
    work = asyncio.create_task(simulate.run(settings, stop, sink=sink, **more))  # type: ignore[arg-type]
    await asyncio.wait({work}, timeout=seconds)
    stop.set()
    began = time.monotonic()
    await work
    return time.monotonic() - began


async def test_paced_by_the_wall_clock(settings: Settings) -> None:
    """Events go out about when they happen, into a live project, as many as the rate says."""
    kept, began = Kept(), time.time()
    await simulated(settings, kept, 2.0, rate=200.0)
    live = [x for x in kept.sent if not isinstance(x.event, e.AgentRetired)]
    assert all(began <= x.envelope.time <= time.time() for x in live)
    assert {(x.envelope.clock, x.envelope.project, x.envelope.source) for x in kept.sent} == {
        ("live", "default", "simulate")
    }
    assert 150 < len(live) < 800


async def test_goodbye(settings: Settings) -> None:
    """At its end every run that was started is finished, and every agent retired."""
    kept = Kept()
    stopping_s = await simulated(settings, kept, 1.5)
    events = [x.event for x in kept.sent]
    started = [x.run_id for x in events if isinstance(x, e.RunStarted)]
    assert sorted(started) == sorted(x.run_id for x in events if isinstance(x, e.RunFinished))
    assert len([x for x in events if isinstance(x, e.AgentRetired)]) == 12
    assert stopping_s < 0.8


async def test_kafka_away_for_a_while(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not acknowledged is sent again with the same ids, and nothing is left out."""
    monkeypatch.setattr(simulate, "RETRY_S", 0.05)
    kept = Kept(BrokerUnavailable("gone"), BrokerUnavailable("gone"))
    await simulated(settings, kept, 1.0)
    first = [[x.envelope.id for x in batch] for batch in kept.tried[:3]]
    assert first[0] == first[1] == first[2]
    assert [x.envelope.id for x in kept.sent[: len(first[0])]] == first[0]


async def test_lost_track(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far behind, the fleet goes home and starts anew at the present, rather than make up for the past."""
    monkeypatch.setattr(simulate, "RETRY_S", 0.5)
    monkeypatch.setattr(simulate, "LOST_TRACK_S", 0.3)
    kept = Kept(BrokerUnavailable("gone"))
    await simulated(settings, kept, 1.2)
    announced = [x.envelope.id for x in kept.sent if isinstance(x.event, e.AgentAnnounced)]
    assert len(set(announced)) == len(announced) == 24
    events = [x.event for x in kept.sent]
    started = [x.run_id for x in events if isinstance(x, e.RunStarted)]
    assert sorted(started) == sorted(x.run_id for x in events if isinstance(x, e.RunFinished))


async def test_stops_though_kafka_is_silent(settings: Settings) -> None:
    """Stopping waits for a broker that does not answer for less than the supervisor's patience."""
    assert await simulated(settings, Silent(), 0.3) < 0.8


async def test_refused_event_is_no_matter_of_waiting(settings: Settings) -> None:
    """An error that trying again cannot mend ends the simulation."""
    with pytest.raises(InvalidEvent):
        await simulated(settings, Kept(InvalidEvent("no")), 1.0)


async def test_ground_truth(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault is an event and a line of the file, which an earlier start's lines stay in."""
    monkeypatch.setattr("streams.fleet_simulation.faults.FIRST_S", (0.2, 0.4))
    file = tmp_path / "faults.jsonl"
    for _ in range(2):
        await simulated(settings, Kept(), 0.8, faults_file=file)
    said = [from_json_line(line) for line in file.read_bytes().splitlines()]
    assert [type(x.event) for x in said] == [e.FaultInjected] * 2
    assert said[0].envelope.id != said[1].envelope.id
    assert read_all(settings)["simulate"]["facts"]["agents"] == 12


async def test_file_that_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    """A faults file in a folder that is not there is refused before anything is sent."""
    kept = Kept()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        await simulated(settings, kept, 1.0, faults_file=tmp_path / "missing" / "faults.jsonl")
    assert not kept.tried


async def test_no_fleet(settings: Settings) -> None:
    """No agents are refused before anything is sent."""
    with pytest.raises(ConfigurationError, match="0 agents"):
        await simulated(settings, Kept(), 1.0, agents=0)


async def test_costs_little(settings: Settings) -> None:
    """At the default rate the fleet takes less than a tenth of one core."""
    cpu = time.process_time()
    await simulated(settings, Kept(), 3.0)
    assert (time.process_time() - cpu) / 3.0 < 0.1


async def test_on_kafka(broker: Settings) -> None:
    """Through the real producer everything arrives, and stopping is quick."""
    stop = asyncio.Event()
    work = asyncio.create_task(simulate.run(broker, stop, project="simulated"))
    await asyncio.sleep(3.0)
    stop.set()
    began = time.monotonic()
    await work
    assert time.monotonic() - began < 1.5
    facts = read_all(broker)["simulate"]["facts"]
    assert facts["events"] > 80
