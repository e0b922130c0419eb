"""The embedded log says no before its disk is full, and takes events again when there is room."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
from pathlib import Path

import pytest

from schemas.errors import DiskFull, DiskReadOnly
from schemas.events import MetricReported
from streams import disk
from streams.disk import DiskGuard, obstacle
from streams.producing.producer import Producer
from streams.settings import Settings
from streams.supervision.broker_keeper import BrokerKeeper
from tests.conftest import free_base_port
from tests.streams.disks import damage, fragile_disk, read_only, small_disk

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
    monkeypatch.setattr(disk, "free_bytes", lambda _: free[0])
    monkeypatch.setattr(disk, "_EVERY_S", 0.0)
    guard = DiskGuard(Settings(data=tmp_path))
    with pytest.raises(DiskFull):
        guard.check()
    free[0] = 2**40
    guard.check()


def test_a_read_only_disk_takes_no_events_and_is_seen_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked by a write, which changes nothing; once it takes writes, events are taken again."""
    monkeypatch.setattr(disk, "_EVERY_S", 0.0)
    with small_disk(tmp_path / "disk", 80) as place:
        settings = Settings(data=place / "data", disk_reserve_bytes=0)
        settings.data.mkdir()
        guard, before = DiskGuard(settings), settings.data.stat()
        guard.check()
        assert settings.data.stat().st_mtime_ns == before.st_mtime_ns
        with read_only(place):
            with pytest.raises(DiskReadOnly, match="is read-only"):
                guard.check()
            assert isinstance(obstacle(settings), DiskReadOnly)
            assert isinstance(obstacle(Settings(data=place / "new" / "data")), DiskReadOnly)
        guard.check()
        assert obstacle(settings) is None


def test_a_disk_that_the_kernel_made_read_only(tmp_path: Path) -> None:
    """After an error of its own a file system may not say so when it is asked: only a write shows it."""
    with fragile_disk(tmp_path) as place:
        settings = Settings(data=place, disk_reserve_bytes=0)
        assert obstacle(settings) is None
        damage(place)
        assert isinstance(obstacle(settings), DiskReadOnly)


async def test_a_broker_on_it_waits_until_it_could_live(tmp_path: Path) -> None:
    """Its lock is let go, though who had it cannot be wiped out; its keeper waits and says why, as long as need be."""
    with fragile_disk(tmp_path) as place:
        keeper = BrokerKeeper(
            Settings(data=place, disk_reserve_bytes=0, port=free_base_port()), lambda *_: None
        )
        keeper.broker.folder.mkdir()
        assert keeper.broker.lock.take()
        damage(place)
        keeping = asyncio.create_task(keeper.keep())  # it finds that no broker runs
        try:
            async with asyncio.timeout(10):
                while keeper.state != "waiting" or keeper.error is None:
                    await asyncio.wait({keeping}, timeout=0.1)
                    assert not keeping.done()
            assert "is read-only" in keeper.error
            with keeper.broker.lock.path.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            keeping.cancel()


def test_where_nothing_could_live(tmp_path: Path) -> None:
    """Less than is needed to start: refused; a reserve that is set lower still is somebody's decision."""
    with small_disk(tmp_path / "disk", 8) as place:
        found = obstacle(Settings(data=place / "data"))
        assert isinstance(found, DiskFull)
        assert "8 MiB are free" in found.message
        assert "HEADWATER_DATA" in found.hint
        assert obstacle(Settings(data=place / "data", disk_reserve_bytes=2**20)) is None


def test_a_log_on_a_disk_of_its_own(tmp_path: Path) -> None:
    """Its disk must not fill up, whatever room the data folder has; either may be read-only."""
    with small_disk(tmp_path / "data" / "kafka", 8) as place:
        settings = Settings(data=tmp_path / "data", disk_reserve_bytes=16 * 2**20)
        with pytest.raises(DiskFull, match=f"8 MiB are free for the log in {place}"):
            DiskGuard(settings).check()
        found = obstacle(settings)
        assert isinstance(found, DiskFull)
        assert f"8 MiB are free in {place}" in found.message
        with read_only(place):
            assert isinstance(obstacle(settings), DiskReadOnly)


async def test_the_producer_refuses_before_it_connects(tmp_path: Path) -> None:
    """A refused event reaches no topic: there is not even a broker here."""
    producer = Producer(Settings(data=tmp_path, disk_reserve_bytes=2**60))
    with pytest.raises(DiskFull):
        await producer.emit(EVENT)
    await producer.stop()
