"""Faust, at least once, with two ways to keep state.

`memory`: all in process memory, nothing durable: its greatest speed.
`table`: running statistics in a table (changelog), models in memory: what its documentation shows for
stateful work. The settings are those with which it loses nothing and is fastest (see docs/benchmarks.md).
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from mode.loop import use

use("uvloop")

import faust  # noqa: E402 - the loop is chosen before it is imported

from schemas import events as e  # noqa: E402
from tests.bench.job import Models, decoder, encoder, learn  # noqa: E402
from tests.bench.peers.first import First  # noqa: E402


def application(way: str, bootstrap: str, namespace: str, folder: Path) -> faust.App:
    """The app with its one agent."""
    app = faust.App(
        f"{namespace}.faust",
        broker=f"kafka://{bootstrap}",
        store="memory://",
        datadir=str(folder),
        value_serializer="raw",
        key_serializer="raw",
        topic_disable_leader=True,
        topic_replication_factor=1,
        stream_wait_empty=False,
        stream_buffer_maxsize=16_384,
        broker_max_poll_records=4_000,
        consumer_auto_offset_reset="earliest",
        cython_optimizations=True,
        web_enabled=False,
        autodiscover=False,
    )
    source = app.topic(f"{namespace}.signals", value_serializer="raw", key_serializer="raw")
    target = app.topic(f"{namespace}.anomalies", value_serializer="raw", key_serializer="raw")
    decode, encode, first = decoder(), encoder(), First()
    states: dict[str, Models] = {}
    statistics = app.Table("statistics", partitions=8) if way == "table" else None

    @app.agent(source)
    async def job(stream: faust.StreamT[bytes]) -> None:
        async for key, value in stream.items():
            event = decode(value)
            assert isinstance(event, e.Signal)
            if not first.said:
                first.say()
            models = states.get(event.component)
            if models is None:
                models = states[event.component] = Models()
            output = learn(models, event)
            if statistics is not None:
                agent = event.agent_id or ""
                kept = models.agents[agent]
                place = f"{event.component}/{agent}"
                statistics.get(place)
                statistics[place] = [kept.mean.get(), kept.variance.get(), kept.median.get()]
            if output is not None:
                await target.send(key=key, value=encode(output))

    return app


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    _, way, bootstrap, namespace, folder = sys.argv
    sys.argv = ["faust", "worker", "--without-web", "--loglevel", "error"]
    application(way, bootstrap, namespace, Path(folder)).main()
