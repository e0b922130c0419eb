"""A lock on a file that says who holds it. The kernel lets it go with the process: it is never stale."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO


class PidLock:
    """Held by one process at a time; its folder has to exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def take(self) -> bool:
        """Take it; False where another has it. Raises OSError where the file cannot be opened."""
        file = self.path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        with suppress(OSError):  # a full disk: we have it all the same, and nobody can read who
            file.truncate(0)
            os.write(file.fileno(), str(os.getpid()).encode())
        self._file = file
        return True

    def release(self) -> None:
        """Let it go. The file stays: removing it would let two starters hold two files of one name."""
        file, self._file = self._file, None
        if file is not None:
            # On a disk that takes no writes it names us still, which matters to nobody by now.
            with file, suppress(OSError):
                file.truncate(0)

    def is_held(self) -> bool:
        """Whether a running process has it."""
        try:
            with self.path.open("a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def holder(self) -> int | None:
        """The pid written in the file."""
        try:
            text = self.path.read_text().strip()
        except OSError:
            return None
        return int(text) if text.isdigit() else None
