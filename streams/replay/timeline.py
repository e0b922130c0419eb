"""Times for data that has none, made up by a stated rule, and the merge of many sessions into one.

The rule (its random parts seeded by format, session and `Options.seed`, so that two readings agree):
session n starts at the format's date plus n gaps; within a session each step comes after the one
before. An LLM call takes 0.4 s + 15 ms per output token, a tool call 0.12 s + 0.1 ms per character of
its result, a user's message 3 s + 20 ms per character, each times a lognormal factor of median 1 and
sigma 0.25. So durations follow what was really said and found, and an odd one has a cause in the data.
A token is 4 characters, rounded up: OpenAI's rule of thumb for English text.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Final

from schemas.envelope import derived_id
from schemas.events import Event
from streams.replay.record import Item, Options, Recorded

CHARACTERS_PER_TOKEN: Final = 4
SIGMA: Final = 0.25


def tokens(text: str) -> int:
    """Estimated tokens of a text."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


class Session:
    """One run in the making: its clock, its events so far, and who it belongs to."""

    def __init__(self, run_id: str, start: float, seed: int, file: Path, label: str) -> None:
        """`label` names the session within its format and goes into the ids of its events."""
        self.run_id = run_id
        self.file = file
        self.now = start
        self.items: list[Recorded] = []
        self._label = label
        self._random = Random(f"{run_id}:{seed}")  # noqa: S311 - made-up times, no secret

    def add(self, event: Event, line: int) -> None:
        """The event happens now."""
        recorded = Recorded(
            event,
            round(self.now, 6),
            f"{self._label}:{len(self.items)}",
            self.file,
            line,
            correlation_id=self.run_id,
        )
        self.items.append(recorded)

    def llm_s(self, output_tokens: int) -> float:
        """How long a model takes to answer, seconds."""
        return (0.4 + 0.015 * output_tokens) * self._noise()

    def tool_s(self, result: str) -> float:
        """How long a tool takes to give this result, seconds."""
        return (0.12 + 0.0001 * len(result)) * self._noise()

    def user_s(self, message: str) -> float:
        """How long a user takes to write this, seconds."""
        return (3.0 + 0.02 * len(message)) * self._noise()

    def _noise(self) -> float:
        return self._random.lognormvariate(0.0, SIGMA)


def starts(name: str, first: float, mean_gap_s: float, seed: int) -> Callable[[int], float]:
    """Start time of the n-th session (from 0): n mean gaps after `first`, off by up to half a gap.

    Never earlier than that of session n - 1, and known without reading the sessions before.
    """

    def start(n: int) -> float:
        offset = Random(f"{name}:{seed}:{n}").uniform(0.0, 0.5)  # noqa: S311 - made-up times, no secret
        return first + (n + offset) * mean_gap_s

    return start


def agent_of(key: str, prefix: str, options: Options) -> str:
    """The made-up agent of a key: `<prefix>-<n>`, n below `options.agents`, the same for the same key."""
    n = int(derived_id(key, options.seed)[:12], 16) % options.agents
    return f"{prefix}-{n:02d}"


def interleave(sessions: Iterable[tuple[float, Iterator[Item]]]) -> Iterator[Item]:
    """Merge sessions, each in time order, into one stream in time order.

    `sessions` come by start time; one is read only when its start is due, so that no more is in
    memory than what overlaps. Of equal times the earlier session goes first.
    """
    heap: list[tuple[float, int, Item, Iterator[Item]]] = []
    for n, (start, session) in enumerate(sessions):
        while heap and heap[0][0] < start:
            yield _next(heap)
        first = next(session, None)
        if first is not None:
            heapq.heappush(heap, (max(first.time, start), n, first, session))
    while heap:
        yield _next(heap)


def _next(heap: list[tuple[float, int, Item, Iterator[Item]]]) -> Item:
    _, n, item, session = heap[0]
    following = next(session, None)
    if following is None:
        heapq.heappop(heap)
    else:
        heapq.heapreplace(heap, (following.time, n, following, session))
    return item
