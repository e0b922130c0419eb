"""A hosted process: signals, status, metrics, and the end of its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from streams.settings import Settings
from streams.supervision.status import read_all

HOST = """
import asyncio
from streams.supervision.process import host
from streams.settings import Settings
from streams.supervision.status import ProcessStatus
from schemas.errors import ConfigurationError

async def run(settings, stop):
    ProcessStatus(settings, "demo").set("running")
    {body}

host(Settings(data={data!r}), "demo", lambda: run)
"""


def spawn(tmp_path: Path, body: str, **environment: str) -> subprocess.Popen[bytes]:
    """A process that hosts `body`."""
    code = HOST.format(body=body, data=str(tmp_path))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )


def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.02)


def state(settings: Settings) -> str | None:
    """What the process says of itself."""
    said = read_all(settings).get("demo")
    return None if said is None else str(said["state"])


def test_a_signal_stops_it_cleanly(tmp_path: Path) -> None:
    """SIGTERM sets `stop`; the process ends with code 0, its status gone, its metrics written."""
    settings = Settings(data=tmp_path)
    process = spawn(tmp_path, "await stop.wait()")
    until(lambda: state(settings) == "running" and (settings.run_folder / "demo.prom").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    assert state(settings) is None


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    """A process that is slow to stop is cut off by a second signal."""
    settings = Settings(data=tmp_path)
    process = spawn(tmp_path, "await stop.wait(); await asyncio.sleep(60)")
    until(lambda: state(settings) == "running")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 0


def test_why_it_failed_is_in_its_status(tmp_path: Path) -> None:
    """What the process raised is left where the supervisor and `status` read it."""
    settings = Settings(data=tmp_path)
    process = spawn(tmp_path, "raise ConfigurationError('no topic', hint='make it')")
    assert process.wait(15) == 1
    said = read_all(settings)["demo"]
    assert said["state"] == "failed"
    assert said["facts"]["error"] == "no topic (make it)"
    process = spawn(tmp_path, "raise ZeroDivisionError('oh')")
    assert process.wait(15) == 1
    assert read_all(settings)["demo"]["facts"]["error"] == "ZeroDivisionError: oh"


def test_under_a_supervisor_it_waits_for_go_and_ends_with_it(tmp_path: Path) -> None:
    """Nothing runs before the word; when the pipe to the parent closes, the process ends at once."""
    settings = Settings(data=tmp_path)
    process = spawn(tmp_path, "await stop.wait()", HEADWATER_SUPERVISED="1")
    until(lambda: state(settings) == "starting")
    time.sleep(0.3)
    assert state(settings) == "starting"
    assert process.stdin is not None
    process.stdin.write(b"g")
    process.stdin.flush()
    until(lambda: state(settings) == "running")
    process.stdin.close()
    assert process.wait(5) != 0
