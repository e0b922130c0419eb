"""The ready-made proof that a fold can be restarted: a right one passes, and each kind of wrong one is caught."""

from __future__ import annotations

import pytest

from processors.intake import Intake
from schemas import events as e
from streams.testing import CheckFailed, FoldFailed, Simulation
from tests.streams.testing import folds as f
from tests.streams.testing.test_simulation import failed


def lived(*folds: type) -> Simulation:
    """A simulation in which something happened to several keys, with silences."""
    sim = Simulation([fold() for fold in folds])
    for n in range(12):
        sim.give(failed(f"tool:t{n % 3}", agent=f"agent-{n % 5}"))
        sim.advance(900)
    sim.advance(f.HOUR)
    return sim


def test_a_right_fold_passes() -> None:
    """With wakes and a model, over crashes, faults, rebalances and zombies, and in another process."""
    checked = lived(f.Hourly).check()
    assert checked.runs >= 20
    assert checked.crashes >= 10
    assert checked.faults > 0
    assert checked.fenced > 0


def test_several_folds_pass_together() -> None:
    """Folds that feed one another are checked as a whole."""
    sim = Simulation([Intake(), f.Hourly()])
    for n in range(6):
        sim.give(e.ToolCallFailed(agent_id="ben", tool_name="t", call_id=str(n), error_type="Timeout"))
        sim.advance(1000)
    assert sim.check(runs=5).crashes >= 10


@pytest.mark.parametrize(
    ("fold", "asks"),
    [
        (f.AsksTime, "time.time()"),
        (f.AsksNow, "datetime.now()"),
        (f.AsksToday, "date.today()"),
        (f.AsksChance, "random.getrandbits()"),
        (f.MakesIds, "posix.urandom()"),
        (f.ReadsFiles, "open()"),
        (f.Connects, "socket.settimeout()"),
    ],
)
def test_clock_chance_and_the_outside_are_noticed(fold: type, asks: str) -> None:
    """Even where nothing comes of it in this run; the line of the fold is named."""
    sim = Simulation([fold()])
    sim.give(failed())
    with pytest.raises(FoldFailed) as caught:
        sim.check()
    said = str(caught.value).replace("os.urandom", "posix.urandom")
    assert f"it asked {asks}, {f.__file__}:" in said
    assert "use `at`" in said


@pytest.mark.parametrize(("fold", "what"), [(f.KeepsInItself, "count"), (f.KeepsDeepInItself, "seen")])
def test_what_a_fold_keeps_in_itself_is_noticed(fold: type, what: str) -> None:
    """It would be lost with the process; said with the attribute's name."""
    sim = Simulation([fold()])
    sim.give(failed())
    with pytest.raises(FoldFailed, match=rf"it changed itself: {what} .*keep it in the state"):
        sim.check()


def test_what_a_fold_keeps_in_its_module_is_noticed() -> None:
    """A global outlives a crash here and not on a running instance: runs come out differently."""
    f.SEEN.clear()
    with pytest.raises(CheckFailed, match="outputs of anomalies came out differently"):
        lived(f.KeepsInItsModule).check()


def test_the_order_of_a_set_is_noticed() -> None:
    """It is another in each process, and may be another after a restore."""
    with pytest.raises(CheckFailed, match="outputs of anomalies came out differently"):
        lived(f.DependsOnOrder).check()


def test_nothing_given_nothing_proven() -> None:
    """A check of nothing is refused."""
    with pytest.raises(CheckFailed, match="nothing has happened yet"):
        Simulation([f.Hourly()]).check()


def test_a_fold_that_cannot_travel() -> None:
    """A class that was made within a test cannot be had in another process: said, with what to do."""

    class Local(f.Hourly):
        name = "local"

    sim = Simulation([Local()])
    sim.give(failed())
    with pytest.raises(CheckFailed, match=r"cannot be taken to another process.*at the top of a module"):
        sim.check(runs=1)
