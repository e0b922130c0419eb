"""What must hold for every format on its real data set; counts are those of the sets' READMEs."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from schemas import events as e
from schemas.errors import ConfigurationError
from schemas.topics import topic_of
from streams.replay import NothingToReplay, Options, format_named
from tests.streams.replay.reading import counts, good, of_type

SETS = {
    "tau-bench": "tau-bench",
    "who-and-when": "agents-failure-attribution",
    "nab": "nab",
    "azure-llm": "azure-llm-2023",
    "mooncake": "mooncake",
    "bgl": "loghub",
}


@pytest.mark.parametrize("name", SETS)
def test_real_set(name: str, data_set: Path) -> None:
    """Nothing is bad, ids are unique, times never go back, all is raw, and a second reading is the same."""
    recorded = good(name, data_set / SETS[name])
    assert len({item.id for item in recorded}) == len(recorded)
    assert all(before.time <= after.time for before, after in pairwise(recorded))
    assert all(topic_of(type(item.event)).kind == "raw" for item in recorded)
    assert good(name, data_set / SETS[name]) == recorded


@pytest.mark.parametrize("name", ["tau-bench", "who-and-when"])
def test_seed_moves_times_only(name: str, data_set: Path) -> None:
    """Another seed makes up other times; events but for latencies, and their ids, stay."""
    one = good(name, data_set / SETS[name], Options(seed=1))
    two = good(name, data_set / SETS[name], Options(seed=2))
    assert {item.id for item in one} == {item.id for item in two}
    assert [item.time for item in one] != [item.time for item in two]
    assert counts(one) == counts(two)


def test_tau_bench_counts(data_set: Path) -> None:
    """100 runs, 31 of them successes; 621 tool calls, 63 failed; 1,381 LLM calls; 860 user messages."""
    recorded = good("tau-bench", data_set / "tau-bench")
    found = counts(recorded)
    assert found["RunStarted"] == found["RunFinished"] == 100
    assert Counter(r.outcome for r in of_type(recorded, e.RunFinished)) == {"success": 31, "failure": 69}
    assert found["ToolCallRequested"] == found["ToolCallCompleted"] + found["ToolCallFailed"] == 621
    assert found["ToolCallFailed"] == found["ErrorReported"] == 63
    assert found["LlmCallCompleted"] == found["LlmCallRequested"] == 1381
    assert Counter(m.role for m in of_type(recorded, e.MessagePosted))["user"] == 860
    by_tool = Counter(c.tool_name for c in of_type(recorded, e.ToolCallRequested))
    assert len(by_tool) == 14
    assert by_tool["get_reservation_details"] == 134
    assert by_tool["think"] == 58


def test_tau_bench_call_ids(data_set: Path) -> None:
    """The recorded ids repeat (117 for 621 calls); ours are unique, and each call has one answer."""
    recorded = good("tau-bench", data_set / "tau-bench")
    asked = [call.call_id for call in of_type(recorded, e.ToolCallRequested)]
    answers: list[e.ToolCallCompleted | e.ToolCallFailed] = [
        *of_type(recorded, e.ToolCallCompleted),
        *of_type(recorded, e.ToolCallFailed),
    ]
    assert len(set(asked)) == 621
    assert sorted(asked) == sorted(answer.call_id for answer in answers)


def test_who_and_when_counts(data_set: Path) -> None:
    """58 runs, all failed; each of the 2,993 steps is one main event; 756 ledgers of three answers."""
    recorded = good("who-and-when", data_set / "agents-failure-attribution")
    found = counts(recorded)
    assert found["RunStarted"] == found["RunFinished"] == 58
    assert {r.outcome for r in of_type(recorded, e.RunFinished)} == {"failure"}
    assert found["MessagePosted"] + found["ToolCallCompleted"] + found["ToolCallFailed"] == 2993
    assert found["LlmCallCompleted"] == 1563
    assert found["MetricReported"] == 3 * 756
    to = Counter(m.recipient_id for m in of_type(recorded, e.MessagePosted) if m.agent_id == "Orchestrator")
    assert (to["WebSurfer"], to["Assistant"], to["FileSurfer"], to["ComputerTerminal"]) == (602, 41, 36, 10)
    assert found["ToolCallCompleted"] + found["ToolCallFailed"] == 10


def test_who_and_when_tells_no_label(data_set: Path) -> None:
    """No event holds the reason that a person wrote for a run's failure."""
    import msgspec

    folder = data_set / "agents-failure-attribution" / "Hand-Crafted"
    said = "\n".join(
        str(item.event) for item in good("who-and-when", data_set / "agents-failure-attribution")
    )
    for file in folder.glob("*.json"):
        assert msgspec.json.decode(file.read_bytes())["mistake_reason"] not in said


def test_nab_counts(data_set: Path) -> None:
    """127,756 points in 35 series, each series in the order of its file."""
    recorded = good("nab", data_set / "nab")
    assert len(recorded) == 127_756
    rows: dict[str, int] = {}
    for item in recorded:
        assert isinstance(item.event, e.MetricReported)
        assert item.line > rows.get(item.event.component, 1)
        rows[item.event.component] = item.line
    assert len(rows) == 35


def test_llm_trace_counts(data_set: Path) -> None:
    """19,366 requests of Azure and 6,000 of Mooncake, with the mean tokens of their READMEs."""
    for name, folder, requests, means in (
        ("azure-llm", "azure-llm-2023", 19_366, (1154.7, 211.1)),
        ("mooncake", "mooncake", 6000, (12_774, 347)),
    ):
        calls = of_type(good(name, data_set / folder), e.LlmCallCompleted)
        assert len(calls) == requests
        assert sum(c.input_tokens for c in calls) / requests == pytest.approx(means[0], abs=0.5)
        assert sum(c.output_tokens for c in calls) / requests == pytest.approx(means[1], abs=0.5)
        assert len({c.agent_id for c in calls}) == Options().agents


def test_bgl_counts(data_set: Path) -> None:
    """2,000 lines of the severities, templates and nodes of the README; the label is nowhere."""
    errors = of_type(good("bgl", data_set / "loghub"), e.ErrorReported)
    severities = {"info": 1597, "warning": 8, "error": 48, "critical": 347}
    assert Counter(x.severity for x in errors) == severities
    assert len({x.error_type for x in errors}) == 120
    assert len({x.agent_id for x in errors}) == 1778
    assert not any("KERNDTLB" in str(x) for x in errors)


def test_one_file_of_a_folder(data_set: Path) -> None:
    """A file replayed alone gives the same ids as within its folder, so that it adds nothing."""
    folder = data_set / "nab"
    file = folder / "data" / "realTraffic" / "speed_6005.csv"
    alone = good("nab", file)
    assert alone == [item for item in good("nab", folder) if item.file == file]


def test_unknown_format() -> None:
    """A format that is not there is refused with the names of those that are."""
    with pytest.raises(ConfigurationError, match="'csv' is no format") as caught:
        format_named("csv")
    assert "tau-bench, who-and-when, nab" in caught.value.hint


@pytest.mark.parametrize("name", [*SETS, "events"])
def test_nothing_there(name: str, tmp_path: Path) -> None:
    """A path that is not there, and a folder without a file of the format, are refused."""
    with pytest.raises(NothingToReplay, match="is not there"):
        good(name, tmp_path / "missing")
    with pytest.raises(NothingToReplay, match="holds no"):
        good(name, tmp_path)
