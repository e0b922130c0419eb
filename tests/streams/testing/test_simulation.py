"""The harness for users' folds: what comes out, when, and what is said where a fold is wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from processors.anomaly import Anomaly
from processors.intake import Intake
from schemas import events as e
from schemas.codec import Decoded
from schemas.envelope import Envelope
from schemas.errors import ConfigurationError, InvalidEvent
from streams.replay.json_lines import to_json_line
from streams.replay.record import MalformedRecord
from streams.testing import START, FoldFailed, Replayed, Simulation
from tests.packages import Packages, tickets
from tests.streams.testing import folds as f
from tests.streams.testing.folds import HOUR, Hourly


def failed(component: str = "tool:search", agent: str = "sofia") -> e.Signal:
    """A call that failed."""
    return e.Signal(
        component=component, kind="call", name="latency_ms", failed=True, agent_id=agent, error_type="Timeout"
    )


def values(sim: Simulation) -> list[tuple[str, float]]:
    """What was found, in order."""
    return [(event.component, event.value) for event in sim.outputs(e.AnomalyDetected)]


def test_outputs_follow_from_events_and_time() -> None:
    """Each third failure at once, the hour's sum when it is over and not before; nothing is waited for."""
    sim = Simulation([Hourly()])
    for agent in ("sofia", "ben", "sofia"):
        sim.give(failed(agent=agent))
    assert values(sim) == [("tool:search", 3)]
    sim.advance(HOUR - 1)
    assert len(values(sim)) == 1
    sim.advance(1)
    assert values(sim) == [("tool:search", 3), ("agent:sofia", 3)]
    assert sim.now == START + HOUR
    sim.advance(10 * HOUR)
    assert len(values(sim)) == 2


def test_a_later_event_moves_time() -> None:
    """Wakes that were due before it come first, each at its own moment; an earlier event moves nothing."""
    sim = Simulation([Hourly()])
    sim.give(failed())
    sim.give(failed(), at=START + 5 * HOUR)
    assert sim.now == START + 5 * HOUR
    (hour,) = sim.emitted(e.AnomalyDetected)
    assert hour.envelope.time == START + HOUR
    sim.give(failed(), at=datetime(2026, 1, 1, tzinfo=UTC))
    assert sim.now == START + 5 * HOUR
    assert sim.state(Hourly, "tool:search").failed == 2


def test_states_can_be_looked_at() -> None:
    """By fold, or its name, and key; none where the key had no event."""
    sim = Simulation([Hourly()])
    sim.give(failed())
    sim.give(failed(), project="acme")
    assert sim.state(Hourly, "tool:search").agents == {"sofia": 1}
    assert sim.state("hourly", "tool:search", project="acme").failed == 1
    assert sim.state(Hourly, "tool:other") is None
    with pytest.raises(InvalidEvent, match="there is no fold intake here"):
        sim.state(Intake, "x")


def test_events_are_given_as_producers_would() -> None:
    """Key, project, correlation and a duplicate's id come through; what follows names its cause."""
    sim = Simulation([Hourly()])
    for _ in range(3):
        sim.give(failed(), id="same")
    for n in range(3):
        sim.give(failed(), key="other", project="acme", correlation_id="run-1", id=f"e{n}")
    assert sim.state(Hourly, "tool:search").failed == 1
    (one,) = sim.emitted(e.AnomalyDetected)
    assert isinstance(one, Decoded)
    assert (one.key, one.envelope.project) == ("acme/tool:search", "acme")
    assert (one.envelope.correlation_id, one.envelope.causation_id) == ("run-1", "e2")
    assert sim.state(Hourly, "other", project="acme").failed == 3


def test_several_folds_in_a_row() -> None:
    """Raw events reach a fold of signals through ours."""
    sim = Simulation([Intake(), Hourly(), Anomaly()])
    for n in range(3):
        sim.give(e.ToolCallFailed(agent_id="ben", tool_name="search", call_id=str(n), error_type="Timeout"))
    assert values(sim) == [("tool:search", 3)]
    assert len(sim.outputs(e.Signal)) == 3


def test_what_nobody_reads_is_refused() -> None:
    """An event that would go by all folds is a mistake of the test's, and it says which fold is missing."""
    sim = Simulation([Hourly()])
    with pytest.raises(InvalidEvent, match=r"MetricReported goes to agent\.metrics.*Intake"):
        sim.give(e.MetricReported(component="c", name="n", value=1))
    with pytest.raises(InvalidEvent, match="none of the folds emits Signal"):
        sim.outputs(e.Signal)
    with pytest.raises(InvalidEvent, match="no time zone"):
        sim.give(failed(), at=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(InvalidEvent, match="project 'a b' is not a name"):
        sim.give(failed(), project="a b")


def test_what_a_fold_declares_is_looked_at_first() -> None:
    """The rules of the catalog hold here, too."""

    class Raw(Hourly):
        topics = (Intake.topics[0],)

    with pytest.raises(ConfigurationError, match="accepts Signal, which is in none of its topics"):
        Simulation([Raw()])
    with pytest.raises(ConfigurationError, match="each of another name"):
        Simulation([Hourly(), Hourly()])
    with pytest.raises(ConfigurationError):
        Simulation([])


@pytest.mark.parametrize(
    ("fold", "says"),
    [
        (f.Raises, "given Signal at 1767225600.0, it raised LookupError: no such thing"),
        (f.ReturnsNothing, "it returned None (yield what follows, or return ())"),
        (f.YieldsText, "it yielded 'failed' (yield events and Wake alone)"),
        (f.YieldsUndeclared, "it yielded Signal, which it does not declare (add Signal to `emits`)"),
        (f.YieldsTooMuch, "cannot be written: AnomalyDetected takes 2,000,"),
        (f.AnswersItself, "the folds come to no end: still lagging"),
        (f.WakesWithoutState, "it keeps no state, so it cannot ask to be woken"),
        (f.BeginsWrong, "initial('default/tool:search') gave {}"),
        (f.KeepsOpaque, "its state cannot be saved: cannot be saved"),
        (f.KeepsFloatsAsKeys, "its state cannot be saved"),
        (f.KeepsTooMuch, "the state of a key takes 2,000,"),
        (f.KeepsTuples, "`last` was [(1, 1767225600.0)], and is [[1, 1767225600.0]] after a restart"),
    ],
)
def test_what_a_fold_must_not_do_is_said(fold: type, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, with the fold's name, the event, and what to do; not as a dead letter that nobody looks at."""
    monkeypatch.setattr("streams.simulation._STEP_LIMIT", 200)
    sim = Simulation([fold()])
    with pytest.raises(FoldFailed) as caught:
        sim.give(failed())
    assert says in str(caught.value)
    if "no end" not in says:
        assert str(caught.value).startswith(f"fold {fold.name}: ")  # type: ignore[attr-defined]


def test_the_cause_is_shown() -> None:
    """What the fold raised stands behind the error, with the line."""
    with pytest.raises(FoldFailed) as caught:
        Simulation([f.Raises()]).give(failed())
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_fold_that_wakes_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error in words, not a test that never ends."""
    monkeypatch.setattr("streams.simulation._WAKE_LIMIT", 100)
    sim = Simulation([f.WakesAtOnce()])
    sim.give(failed())
    with pytest.raises(FoldFailed, match="the folds come to no end: still waking"):
        sim.advance(2 * HOUR)


def test_inside_an_event_loop_as_well() -> None:
    """It needs no event loop, and none hinders it."""
    import asyncio

    async def within() -> None:
        test_outputs_follow_from_events_and_time()

    asyncio.run(within())


def captured(folder: Path) -> Path:
    """A file as `headwater tail --json` writes it: raw, keyed and derived events."""
    lines = []
    for n in range(3):
        at = 1.4e9 + 600 * n
        call = e.ToolCallFailed(agent_id="ben", tool_name="search", call_id=str(n), error_type="Timeout")
        envelope = Envelope(id=f"raw-{n}", source="sdk", type="ToolCallFailed", time=at)
        lines.append(to_json_line(call, envelope, "search", ("agent.tool-calls", 0, n)))
        signal = Envelope(id=f"signal-{n}", source="headwater/folds/intake", type="Signal", time=at)
        lines.append(to_json_line(failed(agent="ben"), signal, "tool:search", ("signals", 3, n)))
    anomaly = Envelope(id="a", source="headwater/folds/hourly", type="AnomalyDetected", time=1.4e9)
    lines.append(to_json_line(f.found("tool:search", 3), anomaly, "tool:search", ("anomalies", 3, 0)))
    (folder / "captured.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return folder / "captured.jsonl"


def test_a_captured_file_is_replayed(tmp_path: Path) -> None:
    """What the folds read is given, in the time of the data; what they make, or do not read, is passed over."""
    path = captured(tmp_path)
    sim = Simulation([Hourly()])
    assert sim.replay(path) == Replayed(3, {"ToolCallFailed": 3, "AnomalyDetected": 1})
    assert values(sim) == [("tool:search", 3)]
    assert sim.emitted(e.AnomalyDetected)[0].envelope.time == 1.4e9 + 1200
    assert sim.now == START, "the data has a time of its own"
    whole = Simulation([Intake(), Hourly()])
    assert whole.replay(path, project="p") == Replayed(3, {"Signal": 3, "AnomalyDetected": 1})
    assert whole.state(Hourly, "tool:search", project="p").failed == 3
    assert whole.replay(path, project="p").given == 3
    assert whole.state(Hourly, "tool:search", project="p").failed == 3, "the same events again are duplicates"


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    """A captured file that was cut says where."""
    path = captured(tmp_path)
    path.write_text(path.read_text() + '{"type": "Sig\n')
    with pytest.raises(MalformedRecord, match=r"captured\.jsonl, line 8"):
        Simulation([Hourly()]).replay(path)


def test_snapshots_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written first, equal after, a difference is shown by line; on demand it is taken over."""
    stored = tmp_path / "snapshot.json"
    sim = Simulation([Hourly()])
    for _ in range(3):
        sim.give(failed())
    with pytest.raises(AssertionError, match="was not there and is written"):
        sim.assert_snapshot(stored)
    sim.assert_snapshot(stored)
    kept = json.loads(stored.read_text())
    assert kept["states"]["hourly"]["default/tool:search"]["agents"] == {"sofia": 3}
    assert kept["states"]["hourly"]["default/tool:search"]["usual"] == "<river.stats.mean.Mean>"
    assert kept["outputs"][0]["data"]["value"] == 3
    assert kept["outputs"][0]["time"] == "2026-01-01T00:00:00.000000Z"
    sim.give(failed())
    with pytest.raises(AssertionError, match=r'(?s)-.*"failed": 3.*\+.*"failed": 4'):
        sim.assert_snapshot(stored)
    monkeypatch.setenv("HEADWATER_UPDATE_SNAPSHOTS", "1")
    sim.assert_snapshot(stored)
    monkeypatch.delenv("HEADWATER_UPDATE_SNAPSHOTS")
    sim.assert_snapshot(stored)


def test_own_event_types_need_no_lock(packages: Packages) -> None:
    """While a package is made, its models are used as they are; locking is for what leaves the machine."""
    tickets(packages, lock=False)
    from streams.testing import playing

    playing.codec_of_models.cache_clear()
    try:
        import acme.events  # type: ignore[import-not-found]

        piled = acme.events.TicketsPiledUp

        class Piles(Hourly):
            name = "piles"
            emits = (piled,)

            def on_event(self, state, event, at):  # type: ignore[no-untyped-def]
                yield piled(customer=event.agent_id, tickets=1)

        sim = Simulation([Piles()])
        sim.give(failed())
        assert sim.outputs(piled) == [piled(customer="sofia", tickets=1)]
    finally:
        playing.codec_of_models.cache_clear()
