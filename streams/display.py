"""The live display of `headwater up`: processes, rates, lag, findings and addresses on one screen."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streams.overview import Overview, ProcessView
from streams.settings import Settings

FINDINGS = 5
NOTES = 4
_COLOURS = {
    "running": "green",
    "external": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "restarting": "red",
    "failed": "red",
    "stopped": "red",
    "dead": "red",
}
_SEVERITY = {"info": "blue", "warning": "yellow", "error": "red", "critical": "bold red"}
Note = tuple[float, str, str]
"""Time (seconds since 1970), level, sentence."""


def screen(
    settings: Settings,
    seen: Overview,
    findings: Sequence[dict[str, Any]] | None,
    notes: Iterable[Note],
    *,
    width: int,
    headline: str,
) -> RenderableType:
    """Everything as one renderable; side by side on a wide terminal."""
    own = [p for p in seen.processes if p.name != "up"]
    grid = Table.grid(padding=(0, 3))
    columns = [_processes(own), _progress(seen)]
    if width >= 130:
        grid.add_row(*columns)
    else:
        for column in columns:
            grid.add_row(column)
    parts = [_headline(seen, headline), grid, _findings(findings), _addresses(settings), _notes(notes)]
    return Panel(
        Group(*parts), title="[bold]Headwater[/]", subtitle="Ctrl-C stops everything", box=box.ROUNDED
    )


def _headline(seen: Overview, headline: str) -> Text:
    return Text.assemble(
        (headline, "bold"),
        ("   events in ", "dim"),
        (f"{seen.rate_in:,.1f}/s", "bold cyan"),
        (f" ({seen.events_in:,})", "dim"),
        ("   out ", "dim"),
        (f"{seen.rate_out:,.1f}/s", "bold cyan"),
        (f" ({seen.events_out:,})", "dim"),
        ("   memory ", "dim"),
        (f"{seen.pss_bytes / 2**20:,.0f} MiB", "bold"),
        ("   cpu ", "dim"),
        (f"{seen.cpu:.0%} of a core", "bold"),
    )


def _processes(processes: Sequence[ProcessView]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("process", "left"), ("state", "left"), ("pid", "right"), ("restarts", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    table.add_column("memory", justify="right")
    table.add_column("cpu", justify="right")
    table.add_column("up", justify="right")
    for p in processes:
        table.add_row(
            p.name,
            Text(p.state, _COLOURS.get(p.state, "")),
            str(p.pid or "-"),
            Text(str(p.restarts), "red" if p.restarts else ""),
            f"{p.pss_bytes / 2**20:.0f} MiB" if p.pss_bytes else "-",
            f"{p.cpu:.1%}" if p.cpu is not None else "-",
            f"{time.time() - p.since:.0f} s" if p.since else "-",
        )
    return table


def _progress(seen: Overview) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("fold or view")
    for name in ("events", "outputs", "lag", "µs/event", "dead letters"):
        table.add_column(name, justify="right")
    for kind, facts in (("fold", seen.folds), ("view", seen.views)):
        for name, f in facts.items():
            lag = f.get("lag")
            table.add_row(
                Text.assemble((f"{kind} ", "dim"), name),
                _number(f.get("events")),
                _number(f.get("outputs")),
                Text(_number(lag), "yellow" if lag and lag > 1000 else ""),
                _number(f.get("us_per_event")),
                Text(_number(f.get("dead_letters")), "red" if f.get("dead_letters") else ""),
            )
    return table


def _findings(findings: Sequence[dict[str, Any]] | None) -> RenderableType:
    if findings is None:
        return Text("findings: waiting for the API", "dim")
    if not findings:
        return Text("findings: none yet", "dim")
    lines = [Text("latest findings", "bold")]
    for f in findings[:FINDINGS]:
        # Everything here comes from events: as Text it is never read as markup.
        severity = str(f.get("severity", ""))
        said = str(f.get("summary") or f"{f.get('metric')} {f.get('value')}, expected {f.get('expected')}")
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{_clock(f.get('time'))} ", "dim")
        line.append(f"{severity:<8} ", _SEVERITY.get(severity, ""))
        line.append(f"{f.get('component', '')} ", "cyan")
        line.append(said)
        lines.append(line)
    return Group(*lines)


def _addresses(settings: Settings) -> Text:
    said = (
        ("\nAPI ", settings.api_url),
        ("   docs ", f"{settings.api_url}/docs"),
        ("   Kafka ", settings.bootstrap),
        ("\ndata ", str(settings.data)),
        ("   key ", "HEADWATER_API_KEY" if settings.api_key else str(settings.data / "api-key")),
    )
    return Text.assemble(
        *((part, style) for label, value in said for part, style in ((label, "dim"), (value, "")))
    )


def _notes(notes: Iterable[Note]) -> Text:
    text = Text()
    for at, level, sentence in list(notes)[-NOTES:]:
        style = {"warning": "yellow", "error": "red"}.get(level, "dim")
        text.append(f"\n{time.strftime('%H:%M:%S', time.localtime(at))} {sentence}", style)
    return text


def _number(value: object) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:,.1f}"
        case _:
            return f"{value:,}"


def _clock(value: object) -> str:
    """Time of day, local, of seconds since 1970 or of an RFC 3339 time."""
    from schemas.envelope import parse_time  # noqa: PLC0415 - only once there is a finding

    try:
        seconds = float(value) if isinstance(value, int | float) else parse_time(str(value))
    except ValueError:
        return ""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


class Notes:
    """The last things said, for the display."""

    def __init__(self) -> None:
        self.lines: deque[Note] = deque(maxlen=NOTES)

    def add(self, level: str, sentence: str) -> None:
        """Say something."""
        self.lines.append((time.time(), level, sentence))
