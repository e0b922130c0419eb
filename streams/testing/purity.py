"""Notices a fold that asks a clock, chance or the outside world, whatever comes of it.

The interpreter's profiler tells of each builtin function that is called, so it does not matter by which
name, or how deep in a library. What is written in C beyond that stays hidden; runs that come out
differently show it.
"""

from __future__ import annotations

import io
import os
import random
import sys
import time
from datetime import date
from socket import socket
from types import BuiltinFunctionType, FrameType, TracebackType
from typing import Any, Final, Self

_FUNCTIONS: Final[dict[Any, str]] = {
    getattr(module, name): f"{module.__name__}.{name}"
    for module, names in (
        (time, ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")),
        (time, ("process_time", "process_time_ns", "sleep")),
        (os, ("urandom", "getpid", "system")),
    )
    for name in names
} | {io.open: "open"}
_TODAY: Final = ("now", "today", "utcnow")
_CHANCE: Final = random._inst  # noqa: SLF001 - what `random.random()` and the like ask


class Purity:
    """Watches the code that runs within `with`. `seen` is what it asked first, and where."""

    def __init__(self, file: str) -> None:
        self.seen: str | None = None
        self._file = file
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = sys.getprofile()
        sys.setprofile(self._called)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.setprofile(self._before)

    def _called(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and self.seen is None and (name := _asks(function)) is not None:
            self.seen = f"{name}(), {self._place(frame)}"

    def _place(self, frame: FrameType) -> str:
        """The line of the fold's own file from which it came to that, if there is one."""
        own: FrameType | None = frame
        while own is not None and own.f_code.co_filename != self._file:
            own = own.f_back
        shown = own or frame
        return f"{shown.f_code.co_filename}:{shown.f_lineno}"


def _asks(function: BuiltinFunctionType) -> str | None:
    """What a builtin function asks that is not the same in each run."""
    if function in _FUNCTIONS:
        return _FUNCTIONS[function]
    of, name = getattr(function, "__self__", None), function.__name__
    if of is _CHANCE:
        return f"random.{name}"
    if isinstance(of, type) and issubclass(of, date) and name in _TODAY:
        return f"{of.__name__}.{name}"
    return f"socket.{name}" if isinstance(of, socket) else None
