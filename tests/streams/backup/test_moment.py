"""Files as of one instant, of a writer that stands still for it and goes on whatever happens to us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from schemas.errors import ConfigurationError
from streams.backup.moment import Moment, lock_holder, standing_still, stands
from tests.streams.instances import until

WRITER = """
import sys, threading, fcntl
lock = open(sys.argv[1] + "/.lock", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
def write(n):
    with open(f"{sys.argv[1]}/{n}", "ab", buffering=0) as file:
        while True:
            file.write(b"x" * 997)
            file.truncate(0) if file.tell() > 1 << 24 else None
for n in range(4):
    threading.Thread(target=write, args=(n,)).start()
"""


@contextmanager
def writer(folder: Path) -> Iterator[int]:
    """A process whose four threads write to a file each as fast as they can, and which has a lock on `.lock`."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)])
    try:
        until(lambda: all((folder / str(n)).exists() for n in range(4)), 10)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def contents(moment: Moment) -> dict[str, bytes]:
    """What is read of the files later."""
    return {held.name: os.pread(held.descriptor, held.size, 0) for held in moment.files}


def sizes(folder: Path) -> list[int]:
    """How far each thread has come."""
    return [(folder / str(n)).stat().st_size for n in range(4)]


def test_all_of_a_process_stands_still_and_goes_on(tmp_path: Path) -> None:
    """Within the block no thread of it writes a byte, over and over; after it all do."""
    with writer(tmp_path) as pid:
        for _ in range(20):
            with standing_still(pid):
                before = sizes(tmp_path)
                time.sleep(0.01)
                assert sizes(tmp_path) == before
            until(lambda: sizes(tmp_path) != before, 5)  # noqa: B023 - called within this turn


def test_it_goes_on_though_we_are_killed(tmp_path: Path) -> None:
    """SIGKILL of whoever stopped it, in the very moment: it runs again, by nobody's doing."""
    code = (
        "import os, signal, sys\nfrom streams.backup.moment import standing_still\n"
        "with standing_still(int(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    with writer(tmp_path) as pid:
        run = subprocess.run([sys.executable, "-c", code, str(pid)], check=False)
        assert run.returncode == -signal.SIGKILL
        until(lambda: psutil.Process(pid).status() != psutil.STATUS_STOPPED, 5)
        before = sizes(tmp_path)
        until(lambda: sizes(tmp_path) != before, 5)


def test_it_goes_on_though_all_of_us_are_told_to_end(tmp_path: Path) -> None:
    """SIGTERM to every process of a service, as systemd sends it: whoever is to wake the writer lives to do it."""
    code = (
        "import sys, time\nfrom streams.backup.moment import standing_still\n"
        "with standing_still(int(sys.argv[1])):\n    print(flush=True)\n    time.sleep(30)"
    )
    with writer(tmp_path) as pid:
        ours = subprocess.Popen([sys.executable, "-c", code, str(pid)], stdout=subprocess.PIPE)
        assert ours.stdout is not None
        ours.stdout.readline()
        wakers = psutil.Process(ours.pid).children(recursive=True)
        for process in (*wakers, ours):
            process.terminate()
        ours.wait()
        ours.stdout.close()
        until(lambda: psutil.Process(pid).status() != psutil.STATUS_STOPPED, 5)
        before = sizes(tmp_path)
        until(lambda: sizes(tmp_path) != before, 5)


def test_it_goes_on_where_the_block_raises(tmp_path: Path) -> None:
    """An error within does not leave it standing, and is not hidden."""
    with writer(tmp_path) as pid:
        with pytest.raises(RuntimeError, match="ours"), standing_still(pid):
            raise RuntimeError("ours")
        assert psutil.Process(pid).status() != psutil.STATUS_STOPPED


def test_a_process_that_ends_meanwhile_is_no_error(tmp_path: Path) -> None:
    """A broker may be killed while it stands still; its files stay as they were."""
    with writer(tmp_path) as pid, standing_still(pid):
        os.kill(pid, signal.SIGKILL)


def test_a_process_that_has_ended_is_no_error(tmp_path: Path) -> None:
    """A broker may die before it is told to stand still: it does."""
    with writer(tmp_path) as pid:
        pass
    with standing_still(pid):
        assert stands(pid)


def test_files_stay_as_they_were(tmp_path: Path) -> None:
    """What is appended, replaced or deleted after the moment changes nothing of it."""
    for name in ("appended", "replaced", "deleted"):
        (tmp_path / name).write_text("before")
    with Moment() as moment:
        moment.hold(tmp_path, lambda _: True)
        with (tmp_path / "appended").open("a") as file:
            file.write(" and after")
        (tmp_path / "other").write_text("after")
        (tmp_path / "other").replace(tmp_path / "replaced")
        (tmp_path / "deleted").unlink()
        assert contents(moment) == dict.fromkeys(("appended", "replaced", "deleted"), b"before")
        assert moment.files[0].descriptor in _open_descriptors()
    assert not {held.descriptor for held in moment.files} & _open_descriptors()


def _open_descriptors() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/fd").iterdir()}


def test_names_and_what_is_wanted(tmp_path: Path) -> None:
    """Names are relative; an unwanted folder is not looked into; linked folders are, once, and pipes are not read."""
    elsewhere = tmp_path / "disk"
    (elsewhere / "log").mkdir(parents=True)
    (elsewhere / "log" / "one").write_text("1")
    folder = tmp_path / "data"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "status").write_text("2")
    (folder / "key").write_text("3")
    (folder / "kafka").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(elsewhere)
    os.mkfifo(folder / "pipe")
    with Moment() as moment:
        moment.hold(folder, lambda name: name != "run/")
        assert contents(moment) == {"kafka/log/one": b"1", "key": b"3"}


def test_more_files_than_are_usually_open_at_once(tmp_path: Path) -> None:
    """The limit of open files is raised as far as it may be."""
    code = (
        "import resource, sys; from pathlib import Path; from streams.backup.moment import Moment\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[2])))\n"
        "with Moment() as moment:\n    moment.hold(Path(sys.argv[1]), lambda _: True)\n    print(len(moment.files))"
    )
    for number in range(100):
        (tmp_path / str(number)).touch()
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path), "256"], capture_output=True, check=False)
    assert run.stdout == b"100\n", run.stderr
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path), "64"], capture_output=True, check=False)
    assert b"ulimit -n" in run.stderr


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A clear error instead of a backup that lacks something."""
    with Moment() as moment, pytest.raises(ConfigurationError, match="absent cannot be read"):
        moment.hold(tmp_path / "absent", lambda _: True)


def test_who_holds_a_lock(tmp_path: Path) -> None:
    """The process that holds a file's POSIX lock is named, none when it has ended or there is no file."""
    lock = tmp_path / ".lock"
    assert lock_holder(lock) is None
    with writer(tmp_path) as pid:
        assert lock_holder(lock) == pid
    assert lock_holder(lock) is None
