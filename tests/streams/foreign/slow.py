"""A fold that takes its time, so that there is a lag to look at."""

from __future__ import annotations

import time
from collections.abc import Iterable

from processors.fold import Fold, Output
from schemas import events as e
from schemas import topics

SECONDS = 0.002


class Slow(Fold[None]):
    """Two milliseconds an event."""

    name = "slow"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)

    def on_event(self, state: None, event: e.Event, at: float) -> Iterable[Output]:
        time.sleep(SECONDS)
        return ()
