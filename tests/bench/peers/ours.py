"""Our engine: `streams.runner` with one fold, as `headwater up` runs it; `job` or `echo`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterable
from typing import Any

import msgspec
import structlog
import uvloop

from processors.fold import Fold, Output
from schemas import events as e
from schemas import topics
from streams.runner import Runner
from streams.settings import Settings
from tests.bench.job import Models, learn
from tests.bench.peers.echo import echo
from tests.bench.peers.first import First


class Kept(msgspec.Struct):
    """The models of one key; `Any`, so that a snapshot saves them whole."""

    models: Any


class Job(Fold[Kept]):
    """The job of all engines."""

    name = "job"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = (e.AnomalyDetected,)
    state = Kept

    def __init__(self, first: First) -> None:
        self._first = first

    def initial(self, key: str) -> Kept:
        return Kept(Models())

    def on_event(self, state: Kept, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        if not self._first.said:
            self._first.say()
        output = learn(state.models, event)
        return () if output is None else (output,)


class Count(msgspec.Struct):
    """How many events a key had."""

    events: int = 0


class Echo(Fold[Count]):
    """Answers every event, for latency."""

    name = "echo"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = (e.AnomalyDetected,)
    state = Count

    def initial(self, key: str) -> Count:
        return Count()

    def on_event(self, state: Count, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        state.events += 1
        yield echo(event)


async def main(mode: str) -> None:
    """Work until SIGTERM."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    first = First()
    folds: list[Fold[Any]] = [Job(first)] if mode == "job" else [Echo()]
    await Runner(Settings(), lambda: folds).run(stop)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
