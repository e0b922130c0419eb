"""What processes say of themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streams.settings import Settings
from streams.supervision.status import ProcessStatus, is_alive, leave, read, read_all
from tests.streams.disks import Ballast, read_only, small_disk


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An instance of its own."""
    return Settings(data=tmp_path)


def test_a_process_says_its_state_and_facts(settings: Settings) -> None:
    """Facts add up over calls, and everything asked for by readers is there."""
    status = ProcessStatus(settings, "folds")
    status.set("starting")
    status.set("running", lag=3)
    status.set("running", partitions=[["signals", 0]], lag=1)
    said = read_all(settings)["folds"]
    assert said["state"] == "running"
    assert said["pid"] == os.getpid()
    assert said["alive"]
    assert said["facts"] == {"lag": 1, "partitions": [["signals", 0]]}
    assert said["since"] <= said["updated"]


def test_since_is_the_time_of_the_last_change_of_state(settings: Settings) -> None:
    """Saying the same state again does not move `since`."""
    status = ProcessStatus(settings, "views")
    status.set("running")
    first = read_all(settings)["views"]
    status.set("running", events=1)
    second = read_all(settings)["views"]
    assert second["since"] == first["since"]
    assert second["updated"] >= first["updated"]


def test_close_takes_away_only_ones_own_word(settings: Settings) -> None:
    """A process that was replaced does not remove its successor's file."""
    status = ProcessStatus(settings, "folds")
    status.set("running")
    said = json.loads(status.path.read_text())
    status.path.write_text(json.dumps(said | {"pid": said["pid"] + 1}))
    status.close()
    assert status.path.exists()
    status.set("running")
    status.close()
    assert not status.path.exists()


def test_a_dead_process_is_known_as_dead(settings: Settings) -> None:
    """What a killed process left behind is shown, marked as not alive."""
    code = (
        "import os, signal\n"
        "from streams.settings import Settings\n"
        "from streams.supervision.status import ProcessStatus\n"
        f"ProcessStatus(Settings(data={str(settings.data)!r}), 'folds').set('running')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    said = read_all(settings)["folds"]
    assert said["state"] == "running"
    assert not said["alive"]


def test_a_pid_given_anew_is_another_process() -> None:
    """A process is known by pid and start time together."""
    assert is_alive(os.getpid(), None)
    assert not is_alive(os.getpid(), 1.0)
    assert not is_alive(2**22 + 1, None)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "null"])
def test_what_is_no_status_is_passed_over(settings: Settings, text: str) -> None:
    """Half-written or foreign files do not break the reader."""
    settings.run_folder.mkdir(parents=True)
    path = settings.run_folder / "x.json"
    path.write_text(text)
    assert read(path) is None
    assert read_all(settings) == {}


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    """The content is the new one, and nothing half-written is left beside it."""
    path = tmp_path / "a" / "b"
    leave(path, b"one")
    leave(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_ends_no_process(tmp_path: Path) -> None:
    """On a full disk a process still says how it is, and what is wrong; with room again as before."""
    with small_disk(tmp_path / "disk", 1) as disk:
        settings, ballast = Settings(data=disk), Ballast(disk)
        status = ProcessStatus(settings, "views")
        status.set("running", lag=3)
        ballast.fill()
        status.set("running", lag=4, error="database or disk is full " * 20)
        said = read(status.path)
        assert said is not None
        assert said["facts"] == {"lag": 4, "error": "database or disk is full " * 20}
        status.set("running", lag=5, error="x" * 100_000)  # this has no room: the last word stays
        assert read(status.path) == said
        assert [p.name for p in settings.run_folder.iterdir()] == ["views.json"]
        ballast.drop()
        status.set("running", lag=6, error=None)
        said = read(status.path)
        assert said is not None
        assert said["facts"] == {"lag": 6, "error": None}


def test_a_read_only_disk_ends_no_process(tmp_path: Path) -> None:
    """Where nothing can be written the last word stays; what is closed does not raise."""
    with small_disk(tmp_path / "disk", 1) as disk:
        status = ProcessStatus(Settings(data=disk), "views")
        status.set("running", lag=3)
        with read_only(disk):
            status.set("running", lag=4)
            said = read(status.path)
            assert said is not None
            assert said["facts"] == {"lag": 3}
            status.close()
        status.set("running", lag=5)
        status.close()
        assert not status.path.exists()
