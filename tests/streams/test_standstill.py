"""Whoever watches a broker lets it go on where whoever stopped it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil
import pytest

from streams.supervision import standstill
from streams.supervision.standstill import Standstill
from tests.streams.instances import until


def test_what_stands_still_for_long_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before it has stood so long without a break; one that runs, or is gone, is let be."""
    monkeypatch.setattr(standstill, "LONGEST_S", 0.3)
    process = subprocess.Popen(["sleep", "60"])
    status, watch = psutil.Process(process.pid).status, Standstill()
    try:
        assert not watch.ended(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: status() == psutil.STATUS_STOPPED, 5)
        assert not watch.ended(process.pid)
        time.sleep(0.35)
        assert watch.ended(process.pid)
        until(lambda: status() != psutil.STATUS_STOPPED, 5)
        assert not watch.ended(process.pid)
    finally:
        process.kill()
        process.wait()
    assert not watch.ended(process.pid)
