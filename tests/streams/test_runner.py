"""What the process `folds` does beside its partitions; these are in `test_worker` and `test_kills`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog

from schemas import topics
from streams import runner
from streams.partitions.memory_log import MemoryLog
from streams.settings import Settings
from streams.versions.decisions import Decisions
from tests.streams.folds import Chain
from tests.streams.harness import CODEC


async def test_what_is_decided_is_followed_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that nobody foresaw is logged, and the next look finds what was decided meanwhile."""
    monkeypatch.setattr(runner, "_FOLLOW_S", 0.0)
    its = runner.Runner(Settings(data=tmp_path), lambda: [Chain()])
    log = MemoryLog({"signals": 1, topics.FOLDS.name: 1})
    bounds, failed = log.bounds, asyncio.Event()

    async def faulty(*about: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise ValueError("unforeseen")
        return await bounds(*about)

    monkeypatch.setattr(log, "bounds", faulty)
    decisions = its._decisions = Decisions(log, CODEC)
    other = Decisions(log, CODEC)
    with structlog.testing.capture_logs() as said:
        following = asyncio.create_task(its._follow())
        await failed.wait()
        await other.establish({"chain": {1: Chain()}}, {"signals": 1}, 1.0)
        async with asyncio.timeout(10):
            while "chain" not in decisions.plan.folds:
                assert not following.done()
                await asyncio.sleep(0)
        following.cancel()
    assert [entry["event"] for entry in said if entry["log_level"] == "error"] == ["versions.retry"]
