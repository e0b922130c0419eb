"""An instance as a user starts it: `headwater up` in a folder of its own, and commands in it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from streams.settings import Settings
from streams.supervision.status import read


def until(condition: Callable[[], object], timeout_s: float) -> None:
    """Wait for a condition."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.05)


class Instance:
    """One `headwater up --no-simulate --plain` in a folder of its own; `variables` are more settings."""

    def __init__(self, folder: Path, port: int, **variables: str) -> None:
        self.settings = Settings(data=folder, port=port)
        self.environment = os.environ | {
            "HEADWATER_DATA": str(folder),
            "HEADWATER_PORT": str(port),
            **variables,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 120.0) -> None:
        """Start it and wait until everything runs."""
        self.process = self.spawn()
        until(self.is_ready, timeout_s)

    def spawn_in_terminal(self) -> int:
        """Start it with the live display in a terminal of 150 columns; returns the terminal's other end."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 150, 0, 0))
        os.set_blocking(ours, False)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streams", "up", "--no-simulate"],
            # COLUMNS and LINES of whoever runs the tests would go before the terminal's own size.
            env={k: v for k, v in self.environment.items() if k not in ("COLUMNS", "LINES")}
            | {"TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        return ours

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start it; what it says goes to `up.err` in its folder."""
        self.settings.data.mkdir(parents=True, exist_ok=True)
        with (self.settings.data / "up.err").open("ab") as err:
            return subprocess.Popen(
                [sys.executable, "-m", "streams", "up", "--no-simulate", "--plain"],
                env=self.environment,
                stdout=err,
                stderr=err,
            )

    def said(self) -> str:
        """What it said."""
        return (self.settings.data / "up.err").read_text()

    def is_ready(self) -> bool:
        """Whether it says that all runs."""
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        up = read(self.settings.run_folder / "up.json")
        return up is not None and up["pid"] == self.process.pid and up["state"] == "running"

    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        up = read(self.settings.run_folder / "up.json")
        assert up is not None
        return {name: pid for name, pid in up["facts"]["pids"].items() if pid}

    def tree(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        assert self.process is not None
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command in this instance."""
        return subprocess.run(
            [sys.executable, "-m", "streams", *arguments],
            env=self.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def kill(self, name: str) -> None:
        """SIGKILL one process, and wait until another runs in its place."""
        until(lambda: name in self.pids(), 30)
        before = self.pids()[name]
        os.kill(before, signal.SIGKILL)
        until(lambda: self.pids().get(name, before) != before, 60)

    def end(self) -> None:
        """Stop it if it runs still."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs."""
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
