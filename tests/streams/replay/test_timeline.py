from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import MetricReported
from streams.replay.record import Item, Recorded
from streams.replay.timeline import interleave, starts, tokens


def recorded(time: float, name: str) -> Recorded:
    """An item at a time."""
    return Recorded(MetricReported(component="c", name=name, value=0.0), time, name, Path("f"), 1)


@given(st.lists(st.lists(st.integers(0, 50), min_size=0, max_size=8), max_size=8), st.booleans())
def test_interleave(sessions: list[list[int]], known: bool) -> None:
    """Sessions in time order merge into all their items in time order, earlier sessions first when equal."""
    ordered = sorted((sorted(s) for s in sessions), key=lambda s: s[:1] or [0])

    def started() -> Iterator[tuple[float, Iterator[Item]]]:
        for n, session in enumerate(ordered):
            start = float(session[0]) if session and known else 0.0
            yield (start if known else float("-inf")), iter([recorded(t, f"{n}") for t in session])

    if known:
        ordered = [s for s in ordered if s]
    merged = [(item.time, int(item.id)) for item in interleave(started()) if isinstance(item, Recorded)]
    assert merged == sorted((float(t), n) for n, s in enumerate(ordered) for t in s)


def test_reads_no_session_before_it_is_due() -> None:
    """A session is asked for only when the stream has come to its start."""
    asked: list[int] = []

    def started() -> Iterator[tuple[float, Iterator[Item]]]:
        for n in range(10):
            asked.append(n)
            yield n * 10.0, iter([recorded(n * 10.0, "a"), recorded(n * 10.0 + 5, "b")])

    stream = interleave(started())
    for _ in range(4):
        next(stream)
    assert asked == [0, 1, 2]


def test_starts_never_go_back() -> None:
    """Sessions start one gap apart, a little off, each no earlier than the one before."""
    start = starts("x", 1000.0, 60.0, seed=1)
    times = [start(n) for n in range(500)]
    assert times == sorted(times)
    assert times[0] >= 1000.0
    assert times == [starts("x", 1000.0, 60.0, seed=1)(n) for n in range(500)]


def test_tokens() -> None:
    """Four characters are a token, a rest counts as one, nothing is none."""
    assert [tokens("x" * n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
