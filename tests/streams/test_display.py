"""The live display: what is on it, on any terminal, whatever events say."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from streams.settings import Settings
from streams.supervision.display import Notes, screen
from streams.supervision.overview import Overview, ProcessView

FINDING = {"time": 1795255200.0, "severity": "warning", "component": "tool:x", "summary": "tool:x: slow"}


def seen(**more: Any) -> Overview:
    """An instance with everything in it."""
    processes = [
        ProcessView(name, "running", 100 + i, i, time.time() - 5, 0.01, 50 * 2**20, {})
        for i, name in enumerate(("broker", "folds", "views", "serve", "up"))
    ]
    values: dict[str, Any] = {
        "folds": {
            "intake": {"events": 1234, "outputs": 2345, "lag": 5, "us_per_event": 12.3, "dead_letters": 1}
        },
        "views": {"runs": {"events": 77, "lag": None}},
        "events_in": 1234,
        "events_out": 2345,
        "rate_in": 12.5,
    }
    return Overview(processes, **(values | more))


def drawn(
    tmp_path: Path,
    overview: Overview,
    findings: list[dict[str, Any]] | None = None,
    width: int = 150,
    height: int = 50,
) -> list[str]:
    """The screen as lines of text."""
    notes = Notes()
    for number in range(6):
        notes.add("info", f"note {number}")
    console = Console(file=io.StringIO(), width=width)
    console.print(
        screen(
            Settings(data=tmp_path),
            overview,
            findings,
            notes.lines,
            width=width,
            height=height,
            headline="running",
        )
    )
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_everything_is_on_it(tmp_path: Path) -> None:
    """Processes, rates, lag, findings, addresses and the last notes; not the supervisor itself."""
    text = "\n".join(drawn(tmp_path, seen(), [FINDING]))
    for part in (
        "broker",
        "running",
        "12.5/s",
        "1,234",
        "fold intake",
        "view runs",
        "tool:x: slow",
        "7092",
        "/docs",
    ):
        assert part in text
    assert str(tmp_path / "api-key") in text
    assert "note 5" in text
    assert "note 1" not in text
    assert "\nup " not in text


def test_it_fits_wide_narrow_and_small_terminals(tmp_path: Path) -> None:
    """Wide: side by side. Narrow: below each other. Small: lag in one line, all within the height."""
    assert any("broker" in line and "fold intake" in line for line in drawn(tmp_path, seen()))
    narrow = drawn(tmp_path, seen(), width=90)
    assert not any("broker" in line and "fold intake" in line for line in narrow)
    assert all(len(line) <= 90 for line in narrow)
    many = {f"view-{n}": {"events": n, "lag": 1} for n in range(30)}
    small = drawn(tmp_path, seen(views=many), width=80, height=24)
    assert len(small) <= 24
    assert "lag: folds 5, views 30" in "\n".join(small)


def test_what_events_say_is_shown_as_it_is(tmp_path: Path) -> None:
    """Markup is no markup, control characters are blanks, missing fields are no fault."""
    evil = {"severity": "error", "component": "c", "summary": "[bold]x[/] \x1b[2J\x07", "time": "nonsense"}
    text = "\n".join(drawn(tmp_path, seen(), [evil, {}]))
    assert "[bold]x[/]" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_before_anything_is_known(tmp_path: Path) -> None:
    """Nothing running and no API is a screen too; no findings is another word than no answer."""
    assert any("waiting for the API" in line for line in drawn(tmp_path, Overview([])))
    assert any("none yet" in line for line in drawn(tmp_path, Overview([]), []))
