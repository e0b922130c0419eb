"""Who may read the log for himself, and for how long."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from streams.following import reading
from streams.following.reading import OF_ONE_KEY, READERS, Turns


def test_readers_are_bounded_and_no_key_has_all() -> None:
    """One key has half of the places at most, all keys together all of them; a place that is left is told of."""
    told: list[bool] = []
    turns = Turns(lambda: told.append(True))
    with ExitStack() as stack:
        for key in ("a", "b"):
            for _ in range(OF_ONE_KEY):
                assert turns.free(key)
                stack.enter_context(turns.reading(key))
            assert not turns.free(key)
        assert not turns.free("c")
        assert not told
    assert len(told) == READERS == 2 * OF_ONE_KEY
    assert turns.free("a")


def test_room_is_made_for_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time a reader is asked to go only where somebody waits who could have its place."""
    monkeypatch.setattr(reading, "TURN_S", 0.0)
    turns = Turns(lambda: None)
    with ExitStack() as stack:
        gone = [stack.enter_context(turns.reading(key)) for key in ["a"] * OF_ONE_KEY + ["b"]]
        assert not any(asks() for asks in gone)
        with turns.waiting("a"):
            assert [asks() for asks in gone] == [True] * OF_ONE_KEY + [False]
        with turns.waiting("b"):
            assert all(asks() for asks in gone)
        assert not any(asks() for asks in gone)


def test_a_turn_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its time is over a reader is left alone, whoever waits."""
    monkeypatch.setattr(reading, "TURN_S", 60.0)
    turns = Turns(lambda: None)
    with turns.reading("a") as should_make_room, turns.waiting("b"):
        assert not should_make_room()
