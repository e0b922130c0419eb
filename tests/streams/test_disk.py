"""The embedded log says no before its disk is full, and takes events again when there is room."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from schemas.errors import DiskFull
from schemas.events import MetricReported
from streams import disk
from streams.disk import DiskGuard
from streams.producing.producer import Producer
from streams.settings import Settings

EVENT = MetricReported(component="c", name="m", value=1.0)


def test_refuses_below_the_reserve_and_says_what_to_do(tmp_path: Path) -> None:
    """With more in reserve than the disk has, nothing is taken."""
    guard = DiskGuard(
        Settings(data=tmp_path / "not-yet", disk_reserve_bytes=shutil.disk_usage(tmp_path).total)
    )
    with pytest.raises(DiskFull, match="make room"):
        guard.check()


def test_an_own_cluster_is_not_guarded(tmp_path: Path) -> None:
    """Where the log is elsewhere, this machine's disk says nothing about it."""
    DiskGuard(Settings(data=tmp_path, kafka="127.0.0.1:1", disk_reserve_bytes=2**60)).check()


def test_takes_events_again_when_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard looks anew; a refusal is not for ever."""
    free = [0]
    monkeypatch.setattr(disk, "_free", lambda _: free[0])
    monkeypatch.setattr(disk, "_EVERY_S", 0.0)
    guard = DiskGuard(Settings(data=tmp_path))
    with pytest.raises(DiskFull):
        guard.check()
    free[0] = 2**40
    guard.check()


async def test_the_producer_refuses_before_it_connects(tmp_path: Path) -> None:
    """A refused event reaches no topic: there is not even a broker here."""
    producer = Producer(Settings(data=tmp_path, disk_reserve_bytes=2**60))
    with pytest.raises(DiskFull):
        await producer.emit(EVENT)
    await producer.stop()
