"""A broker that stands still for long: whoever stopped it, such as a backup that was killed, is gone."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import psutil

LONGEST_S = 10.0
"""A backup needs a tenth of a second; one that was let go on in its middle is tried again."""


class Standstill:
    """Lets a process go on that has stood still (SIGSTOP) for LONGEST_S."""

    def __init__(self) -> None:
        self._since: tuple[int, float] | None = None

    def ended(self, pid: int) -> bool:
        """Look, from time to time; whether it was let go on just now."""
        now = time.monotonic()
        try:
            stands = psutil.Process(pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            stands = False
        if not stands:
            self._since = None
        elif self._since is None or self._since[0] != pid:
            self._since = pid, now
        elif now - self._since[1] > LONGEST_S:
            self._since = None
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
                return True
        return False
