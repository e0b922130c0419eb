"""Files as they are at one instant: held open with the sizes that they have, while their writer stands still.

What a broker has acknowledged it has written, so its files at one instant are what a SIGKILL at this
instant would leave; and what that leaves, it recovers. Only their first `size` bytes are read later:
logs are appended to. What is replaced or deleted meanwhile stays readable through the open file.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import psutil

from schemas.errors import ConfigurationError, HeadwaterError

STILL_S = 5.0
"""A process that writes to a disk which hangs cannot be stopped: then it is let go on."""
_POLL_S = 0.0005
_FLOCK = "@qqihh" if sys.platform == "darwin" else "@hhqqi"


class Held(NamedTuple):
    """An open file; `name` is relative to the folder that it was found in."""

    name: str
    descriptor: int
    size: int


class Moment:
    """Open files, closed at the end of the block."""

    def __init__(self) -> None:
        self.files: list[Held] = []

    def __enter__(self) -> Self:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # macOS names a limit that it does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.let_go(0)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(held.size for held in self.files)

    def let_go(self, first: int) -> None:
        """Close the files from the one of this number on."""
        for held in self.files[first:]:
            os.close(held.descriptor)
        del self.files[first:]

    def hold(self, folder: Path, wanted: Callable[[str], bool]) -> None:
        """Open every file below a folder whose name is wanted; of a folder: with a slash at its end."""
        try:
            self._hold(str(folder), "", wanted, set())
        except OSError as error:
            raise ConfigurationError(
                f"{error.filename or folder} cannot be read: {error.strerror}",
                hint="run it as the user that runs Headwater; `ulimit -n` has to exceed the number of files",
            ) from error

    def _hold(self, path: str, name: str, wanted: Callable[[str], bool], above: set[tuple[int, int]]) -> None:
        here = os.stat(path)  # noqa: PTH116 - a Path a file takes time, and a broker stands still
        place = (here.st_dev, here.st_ino)
        if place in above:  # links that lead in a circle
            return
        with os.scandir(path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # of a writer that did not stop
                    if entry.is_dir() and wanted(f"{name}{entry.name}/"):
                        self._hold(entry.path, f"{name}{entry.name}/", wanted, above | {place})
                    elif entry.is_file() and wanted(name + entry.name):
                        descriptor = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
                        size = os.fstat(descriptor).st_size
                        self.files.append(Held(name + entry.name, descriptor, size))


def lock_holder(path: Path) -> int | None:
    """The process that holds a POSIX lock on a file, as Kafka does on its log; 0: one that is not seen from here."""
    try:
        with path.open("rb") as file:
            question = struct.pack(_FLOCK, *_question())
            answer = struct.unpack_from(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, question))
    except FileNotFoundError:
        return None
    kind, pid = (answer[3], answer[2]) if sys.platform == "darwin" else (answer[0], answer[4])
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def _question() -> tuple[int, ...]:
    """Whole file, for writing, in the order of the platform's struct flock."""
    if sys.platform == "darwin":
        return 0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET
    return fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Whether no other one has the same block open for a folder; needs no right to write there.

    A file system without such locks lets everybody in.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield True  # whoever reads it says what is wrong
        return
    try:
        alone = True
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alone = False
        yield alone
    finally:
        os.close(descriptor)


@contextmanager
def standing_still(pid: int) -> Iterator[Callable[[], float]]:
    """Let a process stand still for as long as the block runs, and go on even if we are killed in it.

    Gives what tells for how many milliseconds it has been stopped, afterwards for how many it was. Raises
    ConfigurationError where it is another user's, HeadwaterError where it does not stop.
    """
    # It waits for the end of its input, which is our end, however we come to it: also by a signal to all of a
    # service's processes, which it has to outlive.
    waker = subprocess.Popen(  # noqa: S603 - our own arguments
        ["/bin/sh", "-c", f"trap '' TERM INT HUP; cat; kill -CONT {pid}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert waker.stdin is not None
    began, ended = time.monotonic(), 0.0
    try:
        try:
            with suppress(ProcessLookupError):  # it has ended: it stands as still as can be
                os.kill(pid, signal.SIGSTOP)
        except PermissionError as error:
            raise ConfigurationError(
                f"the broker (pid {pid}) is another user's", hint="run it as the user that runs Headwater"
            ) from error
        deadline = time.monotonic() + STILL_S
        while not stands(pid):
            if time.monotonic() > deadline:
                raise HeadwaterError(
                    f"the broker (pid {pid}) did not stand still within {STILL_S:.0f} s",
                    hint="its disk may hang; try again",
                )
            time.sleep(_POLL_S)
        yield lambda: ((ended or time.monotonic()) - began) * 1000
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)
        ended = time.monotonic()
        waker.stdin.close()
        waker.wait()


def stands(pid: int) -> bool:
    """Whether every thread has stopped, or ended; one that is in the middle of a write ends it first."""
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.is_dir():
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_STOPPED
    with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended: look again
        return all(stat.read_text().rpartition(")")[2].split()[0] in "TtZX" for stat in tasks.glob("*/stat"))
    return False
