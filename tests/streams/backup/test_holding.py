"""A data folder held as of one instant, whoever else wants its broker to stand still or to go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.backup.holding import held
from streams.backup.moment import Moment
from streams.settings import Settings
from tests.streams.backup.test_moment import sizes, writer
from tests.streams.instances import until


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of an instance whose log is where `log_of` says."""
    log_of(Settings(data=tmp_path)).mkdir(parents=True)
    return Settings(data=tmp_path)


def log_of(settings: Settings) -> Path:
    """Where Kafka's files are."""
    return settings.data / "kafka" / "log"


class Watched(Moment):
    """Does something while it holds files, and notes how far the writer had come before and after."""

    def __init__(self, log: Path, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.seen: list[bool] = []
        """Of each time that files were held: whether the writer stood still."""
        self._log = log
        self._meanwhile = meanwhile

    def hold(self, folder: Path, wanted: Callable[[str], bool]) -> None:
        """See Moment."""
        before = sizes(self._log)
        super().hold(folder, wanted)
        self._meanwhile()
        self.seen.append(sizes(self._log) == before)


@pytest.fixture
def pid(settings: Settings) -> Iterator[int]:
    """A process that writes there and has the log's lock, as a broker."""
    with writer(log_of(settings)) as pid:
        yield pid


def test_two_at_once_wait_for_each_other(settings: Settings, pid: int) -> None:
    """The first to end does not let the broker go on while the second still opens its files."""
    moments = [Watched(log_of(settings), lambda: time.sleep(0.15)) for _ in range(2)]

    def take(moment: Moment) -> None:
        with moment, held(settings, settings.data, moment):
            pass

    threads = [threading.Thread(target=take, args=(moment,)) for moment in moments]
    for thread in threads:
        thread.start()
        time.sleep(0.08)
    for thread in threads:
        thread.join()
    assert [moment.seen for moment in moments] == [[True], [True]]
    before = sizes(log_of(settings))
    until(lambda: sizes(log_of(settings)) != before, 5)


def test_one_that_was_let_go_on_is_held_anew(settings: Settings, pid: int) -> None:
    """Whoever lets the broker go on meanwhile costs another try, and no torn backup; a file is held once."""
    signals = iter([signal.SIGCONT])

    def meanwhile() -> None:
        for number in signals:
            os.kill(pid, number)
        time.sleep(0.05)

    with Watched(log_of(settings), meanwhile) as moment, held(settings, settings.data, moment) as still_ms:
        assert moment.seen == [False, True]
        assert still_ms is not None
        names = [file.name for file in moment.files]
        assert sorted(set(names)) == sorted(names) == [f"kafka/log/{n}" for n in range(4)]


def test_one_that_dies_meanwhile_is_held_as_it_was_left(settings: Settings, pid: int) -> None:
    """What a broker that was killed would recover at its start is held once no other can start."""
    signals = iter([signal.SIGKILL])

    def meanwhile() -> None:
        for number in signals:
            os.kill(pid, number)

    with Watched(log_of(settings), meanwhile) as moment, held(settings, settings.data, moment) as still_ms:
        assert len(moment.seen) == 2
        assert still_ms is None
        assert len(moment.files) == 4
