"""A process for the kill tests: `folds`, the product's and one that would betray any disorder, or `views`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterable
from typing import Any

import msgspec
import uvloop

from processors.anomaly import Anomaly
from processors.fold import Fold, Output
from processors.intake import Intake
from schemas import events as e
from schemas import topics
from streams.runner import Runner
from streams.settings import Settings
from streams.views import follower as views


class Chain(msgspec.Struct):
    """A hash over all values seen, in order: one lost, doubled or swapped changes all that follow."""

    count: int = 0
    digest: int = 0
    padding: str = ""


class Ledger(Fold[Chain]):
    """Answers every signal with the chain so far."""

    name = "ledger"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = (e.AnomalyDetected,)
    state = Chain

    def initial(self, key: str) -> Chain:
        return Chain(padding=key * 10)

    def on_event(self, state: Chain, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        assert event.value is not None
        state.count += 1
        state.digest = (state.digest * 31 + int(event.value * 1000)) % 1_000_003
        yield e.AnomalyDetected(
            component=event.component,
            metric=event.name,
            value=state.digest,
            expected=state.count,
            score=1,
            threshold=1,
            severity="info",
            detector="ledger",
        )


def folds() -> list[Fold[Any]]:
    """What the workers host."""
    return [Intake(), Anomaly(), Ledger()]


async def main(role: str) -> None:
    """Work until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if role == "views":
        await views.run(Settings(), stop)
    else:
        await Runner(Settings(), folds).run(stop)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
