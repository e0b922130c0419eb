"""Open wakes, one a fold and key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.folding.wakes import LIVE, Wakes

ASKED = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(1, 100), st.sampled_from([LIVE, "p"])), max_size=300
)


@given(ASKED, st.floats(0, 110))
def test_each_is_given_once_in_order(asked: list[tuple[str, float, str]], at: float) -> None:
    """Of each key the last wake asked for is given when it is due, in the order of times, and once."""
    wakes = Wakes()
    for key, when, clock in asked:
        wakes.ask("f", key, when, clock, 0.0)
    last = {key: (when, clock) for key, when, clock in asked}
    for clock in (LIVE, "p"):
        expected = sorted((w, "f", k) for k, (w, c) in last.items() if c == clock and w <= at)
        later = [w for w, c in last.values() if c == clock and w > at]
        assert list(wakes.due(clock, at)) == expected
        assert list(wakes.due(clock, at)) == []
        assert wakes.next(clock) == min(later, default=None)


def test_putting_off_takes_no_room() -> None:
    """A wake put off a hundred thousand times holds memory for a few: a fold that waits for silence does so."""
    wakes = Wakes()
    for i in range(100_000):
        wakes.ask("f", f"k{i % 3}", 1e9 + i, LIVE, 0.0)
    assert sum(map(len, wakes._heaps.values())) < 100
    assert [round(at - 1e9) for at, _, _ in wakes.due(LIVE, 2e9)] == [99_997, 99_998, 99_999]


def test_never_in_the_past() -> None:
    """A wake for a time gone by is due just after now, so that no snapshot holds one that was due before it."""
    wakes = Wakes()
    wakes.ask("f", "k", 5.0, LIVE, 100.0)
    assert list(wakes.due(LIVE, 100.0)) == []
    assert len(list(wakes.due(LIVE, 100.1))) == 1


def test_not_a_time() -> None:
    """NaN would sit in front of the heap for ever: it is refused."""
    with pytest.raises(ValueError, match="nan"):
        Wakes().ask("f", "k", float("nan"), LIVE, 0.0)
