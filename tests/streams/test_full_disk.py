"""`headwater up` on a disk that fills up, or takes no writes: said clearly, nothing lost, and it goes on by itself."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from processors.catalog import usable
from streams.supervision.status import read_all
from tests.conftest import free_base_port
from tests.streams.backup.test_under_load import FIRST, Load, raw_records
from tests.streams.disks import Ballast, damage, fragile_disk, read_only, small_disk
from tests.streams.instances import Instance, until
from tests.streams.undisturbed import compare, inputs, lag, views_have_read_it

LOOK_S = 1.2
"""The gateway looks at its disk once a second."""


class Answered(NamedTuple):
    """What the gateway answered."""

    status: int
    retry_after: str | None
    body: dict[str, Any]


def post(instance: Instance, event_id: str = "a") -> Answered:
    """Send one event."""
    body = {"type": "MetricReported", "id": event_id, "data": {"component": "c", "name": "n", "value": 1.0}}
    request = urllib.request.Request(
        f"{instance.settings.api_url}/v1/events",
        orjson.dumps(body),
        {
            "Authorization": f"Bearer {(instance.settings.data / 'api-key').read_text().strip()}",
            "Content-Type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return Answered(answer.status, None, orjson.loads(answer.read()))
    except urllib.error.HTTPError as refusal:
        return Answered(refusal.code, refusal.headers["Retry-After"], orjson.loads(refusal.read()))


def states(instance: Instance) -> dict[str, Any]:
    """What the supervisor says of its processes: states, and why one does not run."""
    facts: dict[str, Any] = read_all(instance.settings)["up"]["facts"]
    return facts


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk on which an instance has little room."""
    with small_disk(tmp_path / "disk", 192) as place:
        yield place


@pytest.fixture
def instance(disk: Path) -> Iterator[Instance]:
    """An instance on that disk; 32 MiB are in reserve."""
    one = Instance(disk / "data", free_base_port(), HEADWATER_DISK_RESERVE_BYTES=str(32 * 2**20))
    try:
        yield one
    finally:
        one.end()


async def test_a_disk_that_fills_up_under_load(disk: Path, instance: Instance) -> None:
    """The broker ends at the full disk, waits for room and goes on: what was acknowledged counts once, all the same.

    Meanwhile events are refused with the reason, `status` says it, and nobody has to do more than make room.
    """
    await asyncio.to_thread(instance.start)
    settings, ballast = instance.settings, Ballast(disk)
    made = inputs(3_000, 3)
    load = Load(settings, made)
    feeding = asyncio.create_task(load.write(list(range(len(made))), per_second=250))
    while len(load.acknowledged) < FIRST:  # noqa: ASYNC110 - they are noted by a callback
        await asyncio.sleep(0.05)
    ballast.fill()
    await asyncio.to_thread(until, lambda: states(instance)["states"]["broker"] == "waiting", 30)
    assert "0 MiB are free" in states(instance)["errors"]["broker"]
    before = dict(load.acknowledged)
    await asyncio.sleep(LOOK_S)
    answer = await asyncio.to_thread(post, instance)
    assert (answer.status, answer.retry_after) == (507, "10"), answer
    assert "0 MiB are free for the log" in answer.body["detail"]
    said = await asyncio.to_thread(instance.run, "status")
    assert f"0 MiB are free in {settings.data}" in said.stdout
    assert "make room on this disk" in said.stdout
    assert not feeding.done()
    ballast.drop()
    await asyncio.to_thread(until, instance.is_ready, 60)
    load.hurry = True
    await feeding
    deadline = time.monotonic() + 60
    while await lag(settings):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    await views_have_read_it(settings, deadline)
    there = await raw_records(settings)
    assert before.keys() <= load.acknowledged.keys() <= there.keys()
    await compare(settings, made, usable)
    assert (await asyncio.to_thread(post, instance)).status == 200
    assert {n: r for n, r in states(instance)["restarts"].items() if r} == {"broker": 1}


def test_a_disk_that_takes_no_writes_for_a_while(disk: Path, instance: Instance) -> None:
    """Events are refused with 503, the reason and when to try again, then taken; all but the broker live on."""
    instance.start()
    pids = instance.pids()
    assert post(instance).status == 200
    with read_only(disk):
        time.sleep(LOOK_S)
        answer = post(instance)
        assert (answer.status, answer.retry_after) == (503, "1"), answer
        assert answer.body["type"] == "urn:headwater:problem:disk-read-only"
        assert "is read-only" in answer.body["detail"]
        assert "is read-only" in instance.run("status").stdout
        time.sleep(5)  # the broker ends where it wants to open a file meanwhile
    until(lambda: post(instance, "b").status == 200, 60)
    until(instance.is_ready, 30)
    assert instance.pids() | {"broker": 0} == pids | {"broker": 0}


def test_a_start_on_a_disk_that_takes_no_writes(disk: Path, instance: Instance) -> None:
    """`up` and `broker` say it and end with 1, with and without a folder there; nothing was written."""
    with read_only(disk):
        for command in (("up", "--no-simulate", "--plain"), ("broker",)):
            run = instance.run(*command)
            assert run.returncode == 1
            assert f"the disk of {instance.settings.data} is read-only" in run.stderr
            assert "Traceback" not in run.stderr
    assert list(disk.iterdir()) == []


def test_a_start_on_a_full_disk(disk: Path, instance: Instance) -> None:
    """`up` says how much room it lacks, and leaves nothing."""
    Ballast(disk).fill(leave=2**20)
    run = instance.run("up", "--no-simulate", "--plain")
    assert run.returncode == 1
    assert "1 MiB are free" in run.stderr
    assert "32 MiB are needed" in run.stderr
    assert [path.name for path in disk.iterdir()] == ["ballast"]


@pytest.mark.prove
def test_a_disk_that_the_kernel_makes_read_only(tmp_path: Path) -> None:
    """After an error of the disk itself events are refused with the reason, and no process but the broker ends."""
    with fragile_disk(tmp_path, mib=256) as place:
        one = Instance(place / "data", free_base_port(), HEADWATER_DISK_RESERVE_BYTES=str(32 * 2**20))
        try:
            one.start()
            assert post(one).status == 200
            others = {name: pid for name, pid in one.pids().items() if name != "broker"}
            damage(place)
            time.sleep(LOOK_S)
            answer = post(one, "b")
            assert (answer.status, answer.retry_after) == (503, "1"), answer
            assert "is read-only" in answer.body["detail"]
            time.sleep(5)
            assert one.process is not None
            alive = {p.pid for p in one.tree()}
            assert set(others.values()) <= alive
        finally:
            one.end()
