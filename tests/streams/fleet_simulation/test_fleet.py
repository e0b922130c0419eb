from __future__ import annotations

from collections import Counter, defaultdict
from itertools import islice, pairwise
from statistics import mean, median

import pytest

from schemas import events as e
from schemas.errors import ConfigurationError
from schemas.topics import topic_of
from streams.fleet_simulation import Fleet, Timed, timed_events
from streams.fleet_simulation.conditions import PEAK_S
from streams.fleet_simulation.faults import FIRST_S, Fault, Targets, plan

START = 1_700_000_000.0
HOUR_S = 3600.0


@pytest.fixture(scope="module")
def hour() -> list[Timed]:
    """One hour of the default fleet."""
    return Fleet(start=START).advance(START + HOUR_S)


def faults(events: list[Timed]) -> list[tuple[float, e.FaultInjected]]:
    """The faults among the events, each with its time."""
    return [(t.time, t.event) for t in events if isinstance(t.event, e.FaultInjected)]


def test_same_seed_same_events() -> None:
    """The same seed, fleet, start and rate give the same events, ids and times included."""
    assert list(islice(timed_events(start=START), 5000)) == list(islice(timed_events(start=START), 5000))


def test_other_seed_other_events() -> None:
    """Another seed gives other events, and other faults."""
    one, two = (Fleet(seed, start=START).advance(START + 600) for seed in (1, 2))
    assert [t.event for t in one] != [t.event for t in two]
    assert [f for _, f in faults(one)] != [f for _, f in faults(two)]


def test_restart_makes_new_ids(hour: list[Timed]) -> None:
    """A fleet started later has ids of its own, and the same agents."""
    later = Fleet(start=START + 0.001).advance(START + 60)
    assert not {t.id for t in later} & {t.id for t in hour}
    assert not {t.correlation_id for t in later} & {t.correlation_id for t in hour} - {None}

    def announced(events: list[Timed]) -> list[e.Event]:
        return [t.event for t in events if isinstance(t.event, e.AgentAnnounced)]

    assert announced(later) == announced(hour)


def test_stream_is_well_formed(hour: list[Timed]) -> None:
    """Times never go back, ids are unique, every type belongs to a raw topic."""
    assert all(before.time <= after.time for before, after in pairwise(hour))
    assert len({t.id for t in hour}) == len(hour)
    assert {topic_of(type(t.event)).kind for t in hour} == {"raw"}


def test_advance_in_steps_changes_nothing() -> None:
    """In one step or in many: the events are the same."""
    fleet = Fleet(start=START)
    steps = [event for n in range(1, 601) for event in fleet.advance(START + n / 10)]
    assert steps == Fleet(start=START).advance(START + 60)


@pytest.mark.parametrize(("agents", "rate"), [(12, 50.0), (1, 10.0), (100, 50.0), (12, 500.0), (5, 2.0)])
def test_rate(agents: int, rate: float) -> None:
    """The fleet makes about as many events a second as were asked for, at a time of middling activity."""
    seconds = max(120.0, 30_000 / rate)
    start = START - START % 86_400 + PEAK_S - 6 * HOUR_S - seconds / 2
    made = Fleet(3, agents, start, rate).advance(start + seconds)
    assert len(made) / seconds == pytest.approx(rate, rel=0.12)


def test_daily_rhythm() -> None:
    """There is more to do, and models are slower, in the afternoon than in the night."""
    midnight = START - START % 86_400
    counts, latencies = [], []
    for at in (midnight + PEAK_S, midnight + PEAK_S - 12 * HOUR_S):
        made = Fleet(start=at).advance(at + 600)
        counts.append(len(made))
        latencies.append(
            median(t.event.latency_ms or 0.0 for t in made if isinstance(t.event, e.LlmCallCompleted))
        )
    assert counts[0] > counts[1] * 1.1
    assert latencies[0] > latencies[1] * 1.2


@pytest.mark.parametrize("hour_of_day", [3, 15])
@pytest.mark.parametrize("seed", range(1, 9))
def test_first_fault(seed: int, hour_of_day: int) -> None:
    """It begins 25 to 35 s after the start, when each tool and model has had at least 50 calls."""
    start = START - START % 86_400 + hour_of_day * HOUR_S
    made = Fleet(seed, start=start).advance(start + 60)
    first, fault = faults(made)[0]
    assert FIRST_S[0] <= first - start <= FIRST_S[1]
    assert fault.fault == "slow"
    calls: Counter[str] = Counter()
    for event in (t.event for t in made if t.time < first):
        if isinstance(event, e.ToolCallCompleted | e.ToolCallFailed):
            calls[event.tool_name] += 1
        elif isinstance(event, e.LlmCallCompleted | e.LlmCallFailed):
            calls[event.request_model] += 1
    assert len(calls) == 5
    assert min(calls.values()) >= 50


def test_plan() -> None:
    """No fault overlaps another, and every four faults are of the four kinds."""
    planned = plan("x", Targets(["tool:t"], ["model:m"], ["agent:a"]), 0.0)
    found: list[Fault] = list(islice(planned, 40))
    assert all(after.start - before.end >= 40.0 for before, after in pairwise(found))
    for n in range(0, 40, 4):
        assert {f.kind for f in found[n : n + 4]} == {"slow", "errors", "outage", "overload"}


def test_runs(hour: list[Timed]) -> None:
    """Each step belongs to a started run, a run ends once, and each event names its cause in the run."""
    agent_of: dict[str, str] = {}
    last: dict[str, str] = {}
    ended = set()
    for timed in hour:
        event, run = timed.event, timed.correlation_id
        if run is None:
            assert isinstance(event, e.AgentAnnounced | e.AgentHeartbeat | e.MetricReported | e.FaultInjected)
            continue
        if isinstance(event, e.RunStarted):
            agent_of[run] = event.agent_id
            assert timed.causation_id is None
        else:
            assert timed.causation_id == last[run]
        assert run not in ended
        assert getattr(event, "agent_id", None) == agent_of[run]
        last[run] = timed.id
        if isinstance(event, e.RunFinished):
            ended.add(run)
    assert len(agent_of) - len(ended) <= 24
    assert len(ended) > 1000


def test_calls_are_answered(hour: list[Timed]) -> None:
    """Each call is asked for once and answered once, after its latency."""
    open_calls: dict[str, float] = {}
    for timed in hour:
        match timed.event:
            case e.LlmCallRequested() | e.ToolCallRequested() as asked:
                assert asked.call_id not in open_calls
                open_calls[asked.call_id] = timed.time
            case (
                e.LlmCallCompleted()
                | e.LlmCallFailed()
                | e.ToolCallCompleted()
                | e.ToolCallFailed() as answer
            ):
                taken_ms = (timed.time - open_calls.pop(answer.call_id)) * 1000
                assert answer.latency_ms == pytest.approx(taken_ms, abs=0.01)
    assert len(open_calls) <= 24


def test_truth_is_what_happened(hour: list[Timed]) -> None:
    """While a fault is on, its component is as bad as was said; else it is as it always is."""
    latencies: dict[tuple[str, bool], list[float]] = defaultdict(list)
    failures: dict[tuple[str, str], list[float]] = defaultdict(list)
    loads: dict[bool, list[float]] = defaultdict(list)
    on: tuple[float, e.FaultInjected] | None = None
    asked: dict[str, tuple[str, float]] = {}
    seen: set[str] = set()
    for timed in hour:
        if on is not None and timed.time >= on[0] + on[1].duration_s:
            on = None
        match timed.event:
            case e.FaultInjected() as fault:
                on = (timed.time, fault)
                seen.add(fault.fault)
            case e.LlmCallRequested() | e.ToolCallRequested() as call:
                component = (
                    f"tool:{call.tool_name}"
                    if isinstance(call, e.ToolCallRequested)
                    else f"model:{call.request_model}"
                )
                asked[call.call_id] = (
                    (on[1].fault, on[1].factor) if on and on[1].component == component else ("none", 1.0)
                )
            case e.ToolCallCompleted() | e.ToolCallFailed() as answer:
                fault_then, factor = asked[answer.call_id]
                usual = (answer.latency_ms or 0.0) / (factor if fault_then == "slow" else 1.0)
                latencies[answer.tool_name, fault_then == "slow"].append(usual)
                failures["tool", fault_then].append(isinstance(answer, e.ToolCallFailed))
            case e.LlmCallCompleted() | e.LlmCallFailed() as answer:
                failures["model", asked[answer.call_id][0]].append(isinstance(answer, e.LlmCallFailed))
            case e.AgentHeartbeat() as beat:
                overloaded = on is not None and on[1].component == f"agent:{beat.agent_id}"
                loads[overloaded].append(beat.load / on[1].factor if overloaded and on else beat.load)
    assert seen == {"slow", "errors", "outage", "overload"}
    for tool in ("web_search", "run_code", "query_database"):
        if latencies[tool, True]:
            assert median(latencies[tool, True]) == pytest.approx(median(latencies[tool, False]), rel=0.1)
    assert 0.6 <= mean(failures["tool", "errors"]) <= 0.9
    assert mean(failures["tool", "none"]) == pytest.approx(0.01, abs=0.005)
    assert mean(failures["model", "outage"]) == 1.0
    assert mean(failures["model", "none"]) == pytest.approx(0.005, abs=0.003)
    assert mean(loads[True]) == pytest.approx(1.0, abs=0.05)
    assert max(loads[False]) < 1.0


def test_spend(hour: list[Timed]) -> None:
    """A call's cost is its tokens at its model's list price."""
    for call in (t.event for t in hour if isinstance(t.event, e.LlmCallCompleted)):
        prices = {"claude-sonnet-4-5": (3.0, 15.0), "gpt-4o-mini": (0.15, 0.6)}[call.request_model]
        cost = (call.input_tokens * prices[0] + call.output_tokens * prices[1]) / 1e6
        assert call.cost_usd == pytest.approx(cost)


def test_stop() -> None:
    """Going home cancels the runs that are open and retires every agent."""
    fleet = Fleet(start=START)
    made = fleet.advance(START + 30)
    started = {t.event.run_id for t in made if isinstance(t.event, e.RunStarted)}
    finished = {t.event.run_id for t in made if isinstance(t.event, e.RunFinished)}
    last = fleet.stop()
    cancelled = [t.event for t in last if isinstance(t.event, e.RunFinished)]
    assert {c.run_id for c in cancelled} == started - finished
    assert {c.outcome for c in cancelled} == {"cancelled"}
    assert len([t for t in last if isinstance(t.event, e.AgentRetired)]) == 12
    assert {t.time for t in last} == {START + 30}


@pytest.mark.parametrize(
    ("agents", "rate"), [(0, 50.0), (-1, 50.0), (3, 0.0), (3, float("nan")), (3, float("inf"))]
)
def test_no_fleet(agents: int, rate: float) -> None:
    """No agents, or no rate, are refused."""
    with pytest.raises(ConfigurationError):
        Fleet(1, agents, START, rate)
