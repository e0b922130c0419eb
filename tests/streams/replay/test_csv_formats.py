"""nab, azure-llm and bgl on small hand-made files."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas import events as e
from schemas.envelope import parse_time
from streams.replay import Options
from tests.streams.replay.reading import bad_of, good, of_type

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
BGL = "LineId,Label,Timestamp,Date,Node,Time,NodeRepeat,Type,Component,Level,Content,EventId,EventTemplate"
TIME = "2005-06-03-15.42.50.675872"


def written(folder: Path, name: str, *lines: str, end: str = "\n") -> Path:
    """A file with these lines."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_bytes(end.join(lines).encode("utf-8", "surrogateescape"))
    return file


def test_nab(tmp_path: Path) -> None:
    """Series are merged by time; points of one moment are all kept, in the order of their rows."""
    written(
        tmp_path / "data" / "real",
        "cpu.csv",
        "timestamp,value",
        "2014-04-01 00:00:00,1.5",
        "2014-04-01 00:10:00,2",
        "2014-04-01 00:10:00,3",
    )
    written(tmp_path / "data" / "real", "net.csv", "timestamp,value", "2014-04-01 00:05:00,-7e3")
    recorded = good("nab", tmp_path)
    metrics = of_type(recorded, e.MetricReported)
    assert [(m.component, m.name, m.value) for m in metrics] == [
        ("host:real.cpu", "value", 1.5),
        ("host:real.net", "value", -7000.0),
        ("host:real.cpu", "value", 2.0),
        ("host:real.cpu", "value", 3.0),
    ]
    assert recorded[0].time == parse_time("2014-04-01T00:00:00Z")
    assert recorded[3].id == "nab:real.cpu:4"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2014-04-01 00:00:00,abc", "value: 'abc' is not a number"),
        ("2014-04-01 00:00:00,nan", "not a finite number"),
        ("2014-04-01 00:00:00,inf", "not a finite number"),
        ("2014-04-01 00:00:00,1e999", "not a finite number"),
        ("2014-04-01 00:00:00,1_0", "not a finite number"),
        ("2014-04-01 00:00:00,", "value: '' is not a number"),
        ("2014-13-01 00:00:00,1", "timestamp: '2014-13-01 00:00:00' is not a time"),
        ("2014-04-01 00:00:00", "1 fields, the header has 2"),
        ("2014-04-01 00:00:00,1,2", "3 fields, the header has 2"),
        ('2014-04-01 00:00:00,"1"2', "not readable as CSV"),
    ],
)
def test_nab_malformed(tmp_path: Path, row: str, reason: str) -> None:
    """A row that is no point is bad, with its line; those around it stay."""
    rows = ("timestamp,value", "2014-04-01 00:00:00,1", row, "2014-04-01 00:05:00,2")
    [(line, said)] = bad_of("nab", written(tmp_path, "a.csv", *rows))
    assert line == 3
    assert reason in said


def test_wrong_header(tmp_path: Path) -> None:
    """A file without the columns is bad at its first line, and nothing of it is read."""
    file = written(tmp_path, "a.csv", "time,val", "2014-04-01 00:00:00,1")
    assert bad_of("nab", file) == [(1, "the header has no column timestamp, value")]
    assert bad_of("nab", written(tmp_path, "b.csv")) == [(1, "the header has no column timestamp, value")]


def test_columns_in_any_order(tmp_path: Path) -> None:
    """Columns are found by name; a byte order mark, empty lines and CRLF do not matter."""
    file = written(tmp_path, "a.csv", "\ufeffvalue,x,timestamp", "", "5,y,2014-04-01", end="\r\n")
    assert [m.value for m in of_type(good("nab", file), e.MetricReported)] == [5.0]


def test_azure(tmp_path: Path) -> None:
    """A line is a completed call at its arrival, with its tokens; what is unknown stays null."""
    file = written(tmp_path, "conv.csv", AZURE, "2023-11-16 18:15:46.6805900,374,44", end="\r\n")
    [item] = good("azure-llm", file)
    assert isinstance(item.event, e.LlmCallCompleted)
    assert item.time == parse_time("2023-11-16T18:15:46.680590Z")
    assert (item.event.input_tokens, item.event.output_tokens) == (374, 44)
    assert item.event.latency_ms is None
    assert item.event.cost_usd is None


def test_made_up_agents(tmp_path: Path) -> None:
    """Agents are drawn by seed and line: the same again, others with another seed, as many as asked for."""
    lines = [f"2023-11-16 18:15:{s:02d}.0000000,1,1" for s in range(60)]
    file = written(tmp_path, "conv.csv", AZURE, *lines)

    def agents(options: Options) -> list[str]:
        return [c.agent_id for c in of_type(good("azure-llm", file, options), e.LlmCallCompleted)]

    assert agents(Options()) == agents(Options())
    assert agents(Options()) != agents(Options(seed=2))
    assert set(agents(Options(agents=3))) == {"azure-00", "azure-01", "azure-02"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2023-11-16 18:15:46.68,-1,44", "ContextTokens: '-1' is not a whole number"),
        ("2023-11-16 18:15:46.68,1.5,44", "ContextTokens: '1.5' is not a whole number"),
        ("2023-11-16 18:15:46.68,1,²", "GeneratedTokens: '²' is not a whole number"),
        ("2023-11-16 18:15:46.68,1,99999999999999999999", "output_tokens"),
        ("yesterday,1,1", "TIMESTAMP: 'yesterday' is not a time"),
    ],
)
def test_azure_malformed(tmp_path: Path, row: str, reason: str) -> None:
    """A count that is no count, and a time that is no time, are named."""
    [(line, said)] = bad_of("azure-llm", written(tmp_path, "conv.csv", AZURE, row))
    assert line == 2
    assert reason in said


@pytest.mark.parametrize(
    ("level", "severity"),
    [
        ("INFO", "info"),
        ("WARNING", "warning"),
        ("ERROR", "error"),
        ("SEVERE", "error"),
        ("FATAL", "critical"),
    ],
)
def test_bgl(tmp_path: Path, level: str, severity: str) -> None:
    """A line is an error of its component on its node, by level; the label is left out."""
    row = f'1,LABEL,1117838570,2005.06.03,R02,{TIME},R02,RAS,KERNEL,{level},"a, b",E77,t'
    [item] = good("bgl", written(tmp_path, "x_structured.csv", BGL, row, end="\r\n"))
    assert item.event == e.ErrorReported(
        component="KERNEL", error_type="E77", message="a, b", severity=severity, agent_id="R02"
    )
    assert item.time == 1117838570.675872


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"1,-,1117838570,d,R02,{TIME},R02,RAS,KERNEL,PANIC,c,E77,t", "Level: 'PANIC' is none of INFO"),
        ("1,-,1117838570,d,R02,15.42,R02,RAS,KERNEL,INFO,c,E77,t", "Time: '15.42' is not"),
        (f"1,-,soon,d,R02,{TIME},R02,RAS,KERNEL,INFO,c,E77,t", "Timestamp: 'soon' is not"),
        (f"1,-,1117838570,d,R02,{TIME},R02,RAS,,INFO,c,E77,t", "component: String should have at least 1"),
        (f"1,-,1117838570,d,R02,{TIME},R02,RAS,K,INFO,\udcff,E77,t", "not UTF-8"),
    ],
)
def test_bgl_malformed(tmp_path: Path, row: str, reason: str) -> None:
    """An unknown level, a time that is none, an empty component and bytes that are no text are named."""
    [(line, said)] = bad_of("bgl", written(tmp_path, "x_structured.csv", BGL, row))
    assert line == 2
    assert reason in said
