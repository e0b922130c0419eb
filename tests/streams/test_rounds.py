"""Rounds of snapshots: what is saved when, and what the marker promises."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from schemas import topics
from schemas.codec import Codec
from streams.folding.engine import Engine
from streams.folding.rounds import MARKER_KEY, Rounds
from streams.folding.snapshots import Marker, Sealer, Snapshot
from tests.streams.folds import Chain, Silence
from tests.streams.harness import Partition

SEALER = Sealer(b"s", "c")


class Clock:
    """Moves by `per_look` each time that it is read."""

    def __init__(self) -> None:
        self.now = 0.0
        self.per_look = 0.0

    def __call__(self) -> float:
        self.now += self.per_look
        return self.now


class Bed:
    """An engine of Chain and Silence with its rounds, and records to feed it."""

    def __init__(self, **options: Any) -> None:
        self.partition = Partition(lambda: [Chain(), Silence()])
        self.codec = Codec(max_record_bytes=2000)
        self.engine = Engine(topics.SIGNALS, 0, [Chain(), Silence()], self.codec)
        self.clock = Clock()
        self.rounds = Rounds(self.engine, SEALER, 0, interval_s=5.0, clock=self.clock, **options)

    def feed(self, *components: str) -> None:
        """One signal for each."""
        for component in components:
            self.engine.process([self.partition.put(1.0, component)])

    def take(self) -> list[Any]:
        """What the next transaction would carry, opened."""
        return [
            SEALER.open(Marker if s.key == MARKER_KEY else Snapshot, s.key, s.value or b"")
            for s in self.rounds.take()
        ]


def test_a_round_is_due_when_something_moved() -> None:
    """Not before the interval, not when nothing moved, and also when records moved that changed no state."""
    bed = Bed(saved=0)
    assert not bed.rounds.due()
    bed.clock.now = 10.0
    assert not bed.rounds.due()
    bed.feed("a")
    assert bed.rounds.due()
    bed.rounds.begin(0)
    bed.take()
    bed.clock.now = 20.0
    assert not bed.rounds.due()
    bed.engine.position += 1  # a record that no fold accepts
    assert bed.rounds.due()


def test_the_marker_comes_last_and_says_where_the_round_began() -> None:
    """Every changed key is saved at the position of its batch; the marker has the position of the beginning."""
    bed = Bed()
    bed.feed("a", "b", "c")
    bed.rounds.begin(4)
    bed.clock.per_look = 0.0007
    taken = []
    while bed.rounds.open:
        taken.append(bed.take())
        bed.feed("z")
    assert len(taken) > 2, "the round is spread over batches"
    flat = [content for batch in taken for content in batch]
    marker = flat.pop()
    assert marker == Marker(3, {"chain": 1, "silence": 1}, {}, 4)
    assert sorted((s.fold, s.key) for s in flat) == [
        (f, f"default/{k}") for f in ("chain", "silence") for k in "abc"
    ]
    assert [s.position for s in flat] == sorted(
        3 + i for i, batch in enumerate(taken) for s in batch if s is not marker
    )
    assert set(bed.engine.slots[0].dirty) == {"default/z"}


def test_a_key_that_changes_again_is_saved_as_it_is_then() -> None:
    """A key still waiting in the round is saved with what it became, and need not be saved again."""
    bed = Bed()
    bed.feed("a")
    bed.rounds.begin(0)
    bed.feed("a")
    saved = bed.take()
    assert [(s.position, s.fold) for s in saved[:-1]] == [(2, "chain"), (2, "silence")]
    assert saved[-1].position == 1
    assert not bed.engine.slots[0].dirty


def test_an_open_wake_is_saved_with_its_key() -> None:
    """The time a key waits for, and by which clock, stand in its snapshot."""
    bed = Bed()
    bed.feed("a")
    bed.engine.process([bed.partition.put(1.0, "b", project="old", clock="replay", time=1000.0)])
    bed.rounds.begin(0)
    saved = {s.key: (s.wake, s.clock) for s in bed.take()[:-1] if s.fold == "silence"}
    assert saved == {"default/a": (bed.partition.log.now + 60, ""), "old/b": (1060.0, "old")}


@pytest.mark.parametrize(
    "value", ["x" * 3000, 2**70, lambda: None], ids=["too large", "too big a number", "a lambda"]
)
def test_a_state_that_cannot_be_saved_stops_nothing(value: Any) -> None:
    """The others are saved, no marker promises what is not there, and it is tried again."""
    bed = Bed()
    bed.feed("a", "b")
    good = bed.engine.slots[0].states["default/a"].component
    bed.engine.slots[0].states["default/a"].component = value
    bed.rounds.begin(0)
    with structlog.testing.capture_logs() as logs:
        saved = bed.take()
    assert [type(s) for s in saved] == [Snapshot] * 3
    assert not bed.rounds.open
    assert bed.rounds.unsaved == 1
    assert [(line["event"], line["fold"], line["key"]) for line in logs] == [
        ("snapshot.not_saved", "chain", "default/a")
    ]
    bed.engine.slots[0].states["default/a"].component = good
    bed.clock.now = 20.0
    assert bed.rounds.due()
    bed.rounds.begin(0)
    assert [type(s) for s in bed.take()] == [Snapshot, Marker]
