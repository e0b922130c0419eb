from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from schemas.errors import ConfigurationError
from streams.replay import NothingToReplay
from streams.replay.command import parse_speed, replay_command
from streams.settings import Settings
from tests.streams.replay.test_driver import Kept, line, written


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a data folder of their own."""
    return Settings(data=tmp_path / "data")


def console() -> Console:
    """A wide terminal that keeps what is shown."""
    return Console(file=io.StringIO(), width=200)


def shown(console: Console) -> str:
    """What was shown."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_summary(settings: Settings, tmp_path: Path) -> None:
    """The end says how much went where, and which records were skipped and why."""
    kept, screen = Kept(settings), console()
    file = written(tmp_path, line("1"), "[red]{", line("3", at=86_400.0))
    report = replay_command(settings, "events", file, skip_bad=True, console=screen, sink=kept)
    assert (report.sent, report.skipped) == (2, 1)
    assert "2 events into project events" in shown(screen)
    assert "1970-01-01 00:00:00 to 1970-01-02 00:00:00" in shown(screen)
    assert "1 bad records skipped" in shown(screen)
    assert f"{file}, line 2: not JSON" in shown(screen)
    assert "3/3 lines" in shown(screen)


def test_live(settings: Settings, tmp_path: Path) -> None:
    """On demand the project stays on real time."""
    kept = Kept(settings)
    file = written(tmp_path, line("1"))
    replay_command(settings, "events", file, live=True, project="p", console=console(), sink=kept)
    assert [(x.envelope.clock, x.envelope.project) for x in kept.sent] == [("live", "p")]


@pytest.mark.parametrize(("text", "speed"), [("max", None), ("1", 1.0), ("2.5", 2.5)])
def test_speed(text: str, speed: float | None) -> None:
    """A speed is max or a number above 0."""
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["fast", "0", "-1", "nan", "inf", ""])
def test_no_speed(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigurationError, match="is not a speed"):
        parse_speed(text)


def test_nothing_there(settings: Settings, tmp_path: Path) -> None:
    """A path that is not there is refused before anything is shown."""
    screen = console()
    with pytest.raises(NothingToReplay, match="is not there"):
        replay_command(settings, "nab", tmp_path / "missing", console=screen, sink=Kept(settings))
    assert shown(screen) == ""
