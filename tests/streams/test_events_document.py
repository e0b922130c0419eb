"""docs/events.md says what is so: its table is made from the code, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from schemas.topics import TOPICS
from streams.keys import admin_key
from streams.settings import Settings
from tests.streams.gateway.serving import serving

DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"
MADE = re.compile(r"(?s)(<!-- made by .*? -->\n)(.*?)(<!-- end -->)")


def table() -> str:
    """The event types, as Markdown."""
    lines = ["| topic | written by | event | keyed by | what |", "|---|---|---|---|---|"]
    for topic in TOPICS:
        writer = "anybody" if topic.kind == "raw" else "Headwater"
        for event, key in topic.events.items():
            what = (event.__doc__ or "").strip().splitlines()[0]
            lines.append(f"| `{topic.name}` | {writer} | `{event.__name__}` | `{key}` | {what} |")
    return "\n".join(lines) + "\n"


def test_the_table_is_that_of_the_code() -> None:
    """Every topic and event type is there with its key; this file, run as a module, makes it."""
    found = MADE.search(DOCUMENT.read_text())
    assert found is not None
    assert found.group(2) == table()


def test_the_example_runs(
    broker: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The foreign client's example writes a metric and reads it back, word for word but for the ports."""
    settings = broker.model_copy(
        update={"kafka": broker.bootstrap, "data": tmp_path / ".headwater", "database": None}
    )
    example = re.search(r"(?s)```python\n(.*?)```", DOCUMENT.read_text())
    assert example is not None
    admin_key(settings)
    monkeypatch.chdir(tmp_path)
    with serving(settings) as url:
        code = example.group(1).replace("127.0.0.1:7000", urlsplit(url).netloc)
        exec(code.replace("127.0.0.1:7092", broker.bootstrap), {})
    assert "{'component': 'tool:search', 'name': 'latency_ms', 'value': 12.5" in capsys.readouterr().out


if __name__ == "__main__":
    DOCUMENT.write_text(MADE.sub(lambda m: m.group(1) + table() + m.group(3), DOCUMENT.read_text()))
