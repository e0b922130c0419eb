"""Bursts of failures are noticed quickly, and hardly ever where there are none."""

from __future__ import annotations

import random

from processors.failures import Failures

USUAL, BURST = 0.02, 0.4


def test_a_burst_is_noticed_within_a_few_calls() -> None:
    """From 2 % to 40 % failures: noticed within 20 calls on average, in every run within 50."""
    delays = []
    for seed in range(30):
        rng = random.Random(seed)
        state = Failures()
        for _ in range(1000):
            state.update(rng.random() < USUAL)
        delays.append(next(i for i in range(1, 51) if state.update(rng.random() < BURST)))
    assert sum(delays) / len(delays) <= 20


def test_steady_failures_are_no_burst() -> None:
    """90,000 calls of which a steady 2 % fail: at most three alarms."""
    alarms = 0
    for seed in range(30):
        rng = random.Random(seed)
        state = Failures()
        alarms += sum(state.update(rng.random() < USUAL) for _ in range(3000))
    assert alarms <= 3


def test_one_burst_is_one_alarm_and_ends() -> None:
    """A burst of a hundred calls alarms once, and is over some time after the failures are."""
    rng = random.Random(3)
    state = Failures()
    for _ in range(500):
        state.update(rng.random() < USUAL)
    assert sum(state.update(rng.random() < BURST) for _ in range(100)) == 1
    assert state.ongoing
    for _ in range(500):
        state.update(rng.random() < USUAL)
    assert not state.ongoing
    assert state.usual < 0.06


def test_a_new_component_that_only_fails_is_learnt_not_flagged() -> None:
    """A component that has always failed has no usual course to leave."""
    state = Failures()
    assert not any(state.update(True) for _ in range(200))
