"""`headwater replay`: the driver with progress bars, for a terminal."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from schemas.errors import ConfigurationError
from streams.replay.driver import Report, Sink, replay
from streams.replay.formats import format_named
from streams.replay.record import NothingToReplay, Options
from streams.settings import Settings

_BLOCK = 1024 * 1024


def replay_command(
    settings: Settings,
    format: str,
    path: Path,
    *,
    speed: str = "max",
    project: str | None = None,
    skip_bad: bool = False,
    live: bool = False,
    options: Options | None = None,
    console: Console | None = None,
    sink: Sink | None = None,
) -> Report:
    """Replay with progress bars and a summary on `console`.

    `speed` is `max` or a number above 0 (1: the data's own pace); `live` puts the project on real
    time in place of its data's. Raises as `replay`; the caller shows the error.
    """
    console = console or Console(stderr=True)
    pace = parse_speed(speed)
    total = sum(_lines(file) for file in format_named(format).files(path))
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("lines"),
        TextColumn("{task.fields[events]:,} events {task.fields[at]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(f"replay {format}", total=total, events=0, at="")

        def show(report: Report) -> None:
            at = _moment(report.last_time)
            bars.update(task, completed=report.lines, events=report.sent, at=at)

        report = asyncio.run(
            replay(
                settings,
                format,
                path,
                project=project,
                clock="live" if live else "replay",
                speed=pace,
                skip_bad=skip_bad,
                options=options,
                progress=show,
                sink=sink,
            )
        )
        show(report)
        bars.update(task, completed=total)
    summarize(report, console)
    return report


def parse_speed(text: str) -> float | None:
    """`max` is None, as fast as it goes; else a number above 0. Raises ConfigurationError."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise ConfigurationError(f"speed {text!r} is not a speed", hint="1, another number above 0, or max")
    return speed


def summarize(report: Report, console: Console) -> None:
    """Say in a few lines what was sent, and what was not."""
    rate = report.sent / report.elapsed_s if report.elapsed_s else 0.0
    console.print(
        f"[bold]{report.sent:,}[/] events into project [bold]{report.project}[/] "
        f"in {report.elapsed_s:.1f} s ({rate:,.0f} a second), "
        f"event time {_moment(report.first_time)} to {_moment(report.last_time)}"
    )
    for event_type, n in sorted(report.passed_over.items()):
        console.print(f"{n:,} {event_type} passed over: folds make them again")
    if report.skipped:
        console.print(f"[yellow]{report.skipped:,} bad records skipped:[/]")
        for bad in report.bad:
            console.print(f"  {bad.file}, line {bad.line}: {bad.reason}", markup=False, soft_wrap=True)
        if report.skipped > len(report.bad):
            console.print(f"  and {report.skipped - len(report.bad):,} more")


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _lines(file: Path) -> int:
    """Lines of a file, the last one also where it has no end."""
    count, last = 0, b"\n"
    try:
        with file.open("rb") as blocks:
            while block := blocks.read(_BLOCK):
                count += block.count(b"\n")
                last = block[-1:]
    except OSError as error:
        raise NothingToReplay(
            f"{file} cannot be read: {error.strerror}", hint="give a file that you may read"
        ) from error
    return count + (last != b"\n")
