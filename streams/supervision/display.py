"""The live display of `headwater up`: processes, rates, lag, findings and addresses on one screen.

Lines are laid out by hand: rich's nested tables measure every cell several times, 23 ms a frame
beside 3 here, and an idle instance has to take less than a tenth of a core.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from schemas.envelope import parse_time
from streams.settings import Settings
from streams.supervision.overview import Overview, ProcessView, total_lag

FINDINGS = 5
NOTES = 4
SIDE_BY_SIDE = 132
"""Columns from which processes and progress stand beside each other."""
_COLOURS = {
    "running": "green",
    "external": "green",
    "waiting": "dim",
    "starting": "yellow",
    "stopping": "yellow",
    "restarting": "red",
    "failed": "red",
    "stopped": "red",
    "dead": "red",
}
_SEVERITY = {"info": "blue", "warning": "yellow", "error": "red", "critical": "bold red"}
_NOTE = {"warning": "yellow", "error": "red"}
Cell = tuple[str, str]
"""Text and style."""
Note = tuple[float, str, str]
"""Time (seconds since 1970), level, sentence."""


class Notes:
    """The last things said, for the display."""

    def __init__(self) -> None:
        self.lines: deque[Note] = deque(maxlen=NOTES)

    def add(self, level: str, sentence: str) -> None:
        """Say something."""
        self.lines.append((time.time(), level, sentence))


def screen(
    settings: Settings,
    seen: Overview,
    findings: Sequence[dict[str, Any]] | None,
    notes: Iterable[Note],
    *,
    width: int,
    height: int,
    headline: str,
) -> Group:
    """Everything, at most `width` columns and, where it can be, `height` lines."""
    processes = _processes([p for p in seen.processes if p.name != "up"])
    progress = _progress(seen)
    head = [_headline(seen, headline), Text()]
    tail = [Text(), *_findings(findings), Text(), *_addresses(settings)]
    if width >= SIDE_BY_SIDE:
        middle = _beside(processes, progress)
    else:
        middle = [*processes, Text(), *progress]
        if len(head) + len(middle) + len(tail) + NOTES >= height:
            middle = [*processes, Text(), _lag(seen)]
    lines = [*head, *middle, *tail]
    for line in lines:
        line.no_wrap = True
        line.overflow = "ellipsis"
    return Group(*lines, *_notes(notes))


def _table(header: Sequence[str], rows: Sequence[Sequence[Cell]], left: int = 1) -> list[Text]:
    """Aligned columns, the first `left` to the left, the others to the right."""
    cells = [[(name, "dim") for name in header], *rows]
    widths = [max(len(row[i][0]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        line = Text()
        for i, (text, style) in enumerate(row):
            line.append(text.ljust(widths[i]) if i < left else text.rjust(widths[i]), style)
            line.append("  ")
        lines.append(line)
    return lines


def _beside(first: Sequence[Text], second: Sequence[Text], gap: int = 4) -> list[Text]:
    width = max((line.cell_len for line in first), default=0) + gap
    lines = []
    for i in range(max(len(first), len(second))):
        line = first[i].copy() if i < len(first) else Text()
        line.append(" " * (width - line.cell_len))
        if i < len(second):
            line.append_text(second[i])
        lines.append(line)
    return lines


def _headline(seen: Overview, headline: str) -> Text:
    return Text.assemble(
        ("Headwater ", "bold cyan"),
        (headline, "bold"),
        ("   in ", "dim"),
        (f"{seen.rate_in:,.1f}/s", "bold"),
        (f" ({seen.events_in:,})", "dim"),
        ("   out ", "dim"),
        (f"{seen.rate_out:,.1f}/s", "bold"),
        (f" ({seen.events_out:,})", "dim"),
        ("   memory ", "dim"),
        (f"{seen.pss_bytes / 2**20:,.0f} MiB", "bold"),
        ("   cpu ", "dim"),
        (f"{seen.cpu:.0%} of a core", "bold"),
    )


def _processes(processes: Sequence[ProcessView]) -> list[Text]:
    rows = [
        [
            (p.name, ""),
            (p.state, _COLOURS.get(p.state, "")),
            (str(p.pid or "-"), ""),
            (str(p.restarts), "red" if p.restarts else ""),
            (f"{p.pss_bytes / 2**20:.0f} MiB" if p.pss_bytes else "-", ""),
            (f"{p.cpu:.1%}" if p.cpu is not None else "-", ""),
            (f"{time.time() - p.since:,.0f} s" if p.since else "-", ""),
        ]
        for p in processes
    ]
    return _table(("process", "state", "pid", "restarts", "memory", "cpu", "up"), rows, left=2)


def _progress(seen: Overview) -> list[Text]:
    rows = []
    for kind, facts in (("fold", seen.folds), ("view", seen.views)):
        for name, f in facts.items():
            lag = f.get("lag")
            rows.append(
                [
                    (f"{kind} {name}", "red" if f.get("error") else ""),
                    (_number(f.get("events")), ""),
                    (_number(f.get("outputs")), ""),
                    (_number(lag), "yellow" if lag and lag > 1000 else ""),
                    (_number(f.get("us_per_event")), ""),
                    (_number(f.get("dead_letters")), "red" if f.get("dead_letters") else ""),
                ]
            )
    return _table(("fold or view", "events", "outputs", "lag", "µs/event", "dead letters"), rows)


def _lag(seen: Overview) -> Text:
    """Progress in one line, for a small terminal."""
    folds, views = total_lag(seen.folds), total_lag(seen.views)
    return Text.assemble(("lag: folds ", "dim"), _number(folds), (", views ", "dim"), _number(views))


def _findings(findings: Sequence[dict[str, Any]] | None) -> list[Text]:
    if findings is None:
        return [Text("findings: waiting for the API", "dim")]
    if not findings:
        return [Text("findings: none yet", "dim")]
    lines = [Text("latest findings", "dim")]
    for f in findings[:FINDINGS]:
        # Everything here comes from events: as Text it is never read as markup.
        severity, component = str(f.get("severity", "")), str(f.get("component", ""))
        said = str(f.get("summary") or f"{f.get('metric')} {f.get('value')}, expected {f.get('expected')}")
        if not said.startswith(component):
            said = f"{component}: {said}"
        printable = "".join(c if c.isprintable() else " " for c in said)
        lines.append(
            Text.assemble(
                (f"{_clock(f.get('time'))} ", "dim"),
                (f"{severity:<8} ", _SEVERITY.get(severity, "")),
                printable,
            )
        )
    return lines


def _addresses(settings: Settings) -> list[Text]:
    key = "HEADWATER_API_KEY" if settings.api_key else str(settings.data / "api-key")
    return [
        Text.assemble(
            ("API ", "dim"),
            settings.api_url,
            ("   docs ", "dim"),
            f"{settings.api_url}/docs",
            ("   Kafka ", "dim"),
            settings.bootstrap,
        ),
        Text.assemble(("data ", "dim"), str(settings.data)),
        Text.assemble(("key ", "dim"), key),
        Text("Ctrl-C stops everything", "dim"),
    ]


def _notes(notes: Iterable[Note]) -> list[Text]:
    return [
        Text(f"{time.strftime('%H:%M:%S', time.localtime(at))} {sentence}", _NOTE.get(level, "dim"))
        for at, level, sentence in list(notes)[-NOTES:]
    ]


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
    try:
        seconds = float(value) if isinstance(value, int | float) else parse_time(str(value))
    except ValueError:
        return ""
    return time.strftime("%H:%M:%S", time.localtime(seconds))
