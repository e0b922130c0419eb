"""The README's agents run as they stand there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from processors.addressing import Addressing
from schemas import events as e
from schemas import topics
from streams.fleet import host
from streams.reactors import host as reactors
from streams.reactors.dispatcher import Dispatcher
from streams.runner import Runner
from streams.sdk import Headwater
from streams.settings import Settings
from tests.streams.fleet.test_fleet import hosted, settings, until, written

README = Path(__file__).parents[3] / "README.md"


async def test_the_readmes_agents(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The echo answers, the tool user's call is an event, the pair talks."""
    code = re.search(r"(?s)```python\n# agents\.py\n(.*?)```", README.read_text())
    assert code is not None
    (tmp_path / "readme_agents.py").write_text(code.group(1))
    monkeypatch.chdir(tmp_path)
    stop = asyncio.Event()
    async with hosted(settings, host.load("readme_agents")) as here:
        others = [
            asyncio.create_task(Runner(settings, lambda: [Addressing()]).run(stop)),
            asyncio.create_task(reactors.run(settings, stop, [Dispatcher()])),
        ]
        async with Headwater(settings) as hw:
            await hw.assign("echo", "hello", sender_id="me")
            await hw.assign("counter", "how many words are these", sender_id="me")
            await hw.assign("teacher", "ask the pupil")
        await until(lambda: here.handling.handled == 5)
        stop.set()
        await asyncio.gather(*others)
    said = {
        (event.agent_id, event.content)
        for _, event, _ in await written(settings, topics.MESSAGES.name)
        if isinstance(event, e.MessagePosted)
    }
    assert said == {
        ("echo", "hello"),
        ("counter", "5 words"),
        ("teacher", "What is 6 times 7?"),
        ("pupil", "42"),
    }
    calls = [
        x for _, x, _ in await written(settings, topics.TOOL_CALLS.name) if isinstance(x, e.ToolCallCompleted)
    ]
    assert [(c.agent_id, c.tool_name, c.result) for c in calls] == [("counter", "word_count", "5")]
    ((_, metric, _),) = await written(settings, topics.METRICS.name)
    assert isinstance(metric, e.MetricReported)
    assert metric.value == 1.0


__all__ = ["settings"]
