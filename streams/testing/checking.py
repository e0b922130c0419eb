"""The contract of a fold: whatever goes wrong, state and outputs are those of an undisturbed run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from processors.fold import Fold
from schemas.errors import HeadwaterError
from streams.simulation import Chaos
from streams.testing.playing import Play, Step

CHAOS = Chaos(crash=0.05, fault=0.03, rebalance=0.1, zombie=0.1)
_MOST_RUNS = 200
_FEWEST_CRASHES = 10
_PROCESS_S = 120.0
_HINT = (
    "something it needs is neither in the event nor in its state: in a global of its module, in the order of a "
    "set, in an object that pickle leaves half out"
)


class CheckFailed(HeadwaterError, AssertionError):
    """A fold came to something else in a run that was disturbed, or in another process."""


class Checked(NamedTuple):
    """How a check went: disturbed runs, and what they went through."""

    runs: int
    crashes: int
    faults: int
    fenced: int


def check(folds: Sequence[Fold[Any]], start: float, steps: Sequence[Step], runs: int) -> Checked:
    """Play the steps again and again, disturbed. See `Simulation.check`."""
    if not steps:
        raise CheckFailed("nothing has happened yet, so nothing can be checked", hint="give events first")
    calm = Play(folds, start, closely=True)
    calm.steps(steps)
    expected = calm.remains()
    done = Checked(0, 0, 0, 0)
    while done.runs < runs or (done.crashes < _FEWEST_CRASHES and done.runs < _MOST_RUNS):
        seed = done.runs
        play = Play(folds, start, chaos=CHAOS, seed=seed, partitions=1 + seed % 3)
        play.steps(steps)
        run = play.run
        crashes = sum(run.crashes.values())
        _compare(expected, play.remains(), f"with {crashes} crashes and restores (seed {seed})")
        done = Checked(
            done.runs + 1,
            done.crashes + crashes,
            done.faults + sum(run.faults.values()),
            done.fenced + run.fenced,
        )
    _compare(expected, _elsewhere(folds, start, steps), "in another process, with another hash seed")
    return done


def _elsewhere(folds: Sequence[Fold[Any]], start: float, steps: Sequence[Step]) -> dict[str, Any]:
    """What remains of an undisturbed run in a new process."""
    try:
        if any(type(fold).__module__ == "__main__" for fold in folds):
            raise pickle.PicklingError("their module is the program itself")
        told = pickle.dumps((folds, start, list(steps)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise CheckFailed(
            f"the folds cannot be taken to another process: {error}",
            hint="define their classes at the top of a module, and keep no open resources in them",
        ) from error
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    run = subprocess.run(
        [sys.executable, "-m", "streams.testing.again"],
        input=told,
        capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout=_PROCESS_S,
        check=False,
    )
    if run.returncode:
        raise CheckFailed(
            f"the folds failed in another process: {run.stderr.decode(errors='replace').strip()[-2000:]}",
            hint=_HINT,
        )
    remains: dict[str, Any] = pickle.loads(run.stdout)  # noqa: S301 - our own process wrote it
    return remains


def _compare(expected: dict[str, Any], found: dict[str, Any], when: str) -> None:
    for what, content in expected.items():
        if content == found[what]:
            continue
        if isinstance(content, dict):
            name = next(n for n in sorted({*content, *found[what]}) if content.get(n) != found[what].get(n))
            differs = f"{name} is {found[what].get(name)!r}, not {content.get(name)!r}"
        else:
            differs = f"{len(found[what])} records instead of {len(content)}" + _first(content, found[what])
        raise CheckFailed(f"{what} came out differently {when}: {differs}", hint=_HINT)


def _first(expected: list[Any], found: list[Any]) -> str:
    """The first record that differs; records are key, value and headers."""
    other = [record for record in found if record not in expected] or [r for r in expected if r not in found]
    return f", such as {other[0][1]!r} of key {other[0][0]!r}" if other else ", in another order"
