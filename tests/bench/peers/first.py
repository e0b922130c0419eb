"""When an engine took its first record: one line on stdout, on the clock that all processes share."""

from __future__ import annotations

import os
import time


class First:
    """Says it once."""

    def __init__(self) -> None:
        self.said = False

    def say(self) -> None:
        """`first <seconds of the monotonic clock>`; not by print, since Faust takes stdout for its log."""
        self.said = True
        os.write(1, f"first {time.monotonic()}\n".encode())
