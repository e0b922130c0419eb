"""What a team takes for a Faust app of its own."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import faust
import pytest

from schemas import events as e
from schemas.errors import ConfigurationError
from streams.admin import ensure_topics
from streams.fleet.parts import CODEC, faust_options, topic
from streams.sdk import Headwater
from streams.settings import Settings


def folders() -> set[Path]:
    """What the working folder has."""
    return {path for path in Path().iterdir() if path.is_dir()}


async def test_a_plain_faust_app_reads_and_writes_our_events(broker: Settings, tmp_path: Path) -> None:
    """Topic, codec and settings of ours in an app that is otherwise Faust's: events in, events out, nothing left."""
    before = folders()
    settings = Settings(
        data=tmp_path,
        kafka=broker.bootstrap,
        namespace=f"p{uuid.uuid4().hex[:8]}",
        raw_partitions=1,
        partitions=1,
    )
    await ensure_topics(settings)
    app = faust.App(settings.named("mine"), **faust_options(settings))
    seen: list[Any] = []

    async def watch(stream: Any) -> None:
        async for event in stream:
            seen.append(event)  # noqa: PERF401 - it has no end

    metrics = topic(app, settings, "agent.metrics")
    app.agent(metrics)(watch)
    await app.start()
    try:
        async with Headwater(settings) as hw:
            await hw.metric("tool:a", "load", 1.5)
        told = e.MetricReported(component="tool:b", name="load", value=2.5)
        await metrics.send(key=b"default/tool:b", value=told)
        async with asyncio.timeout(40):
            while len(seen) < 2:  # noqa: ASYNC110 - Faust tells nobody
                await asyncio.sleep(0.1)
    finally:
        await app.stop()
    assert sorted(event.component for event in seen) == ["tool:a", "tool:b"]
    assert told in seen
    assert not {path for path in folders() - before if path.name.endswith("-data")}


@pytest.mark.parametrize("name", ["anomalies", "signals", "assignments", "effects", "headwater.webhooks"])
def test_a_topic_that_is_written_by_transactions_is_refused(tmp_path: Path, name: str) -> None:
    """Faust would lose its place there: the error says so, and what to follow instead."""
    settings = Settings(data=tmp_path)
    app = faust.App("mine", **faust_options(settings))
    with pytest.raises(ConfigurationError, match="written by transactions") as refused:
        topic(app, settings, name)
    assert "fleet.inbox" in refused.value.hint
    with pytest.raises(ConfigurationError, match="there is no topic"):
        topic(app, settings, "nonsense")


def test_the_codec_has_a_name_in_faust(tmp_path: Path) -> None:
    """`value_serializer=CODEC` is enough."""
    app = faust.App("mine", **faust_options(Settings(data=tmp_path)))
    event = e.MetricReported(component="c", name="n", value=1)
    value = app.serializers.dumps_value(None, event, serializer=CODEC)
    assert app.serializers.loads_value(None, value, serializer=CODEC) == event
