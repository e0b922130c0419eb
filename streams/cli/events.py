"""`headwater produce`, `tail` and `replay`: events in and out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from streams.cli.guard import load_settings

Project = Annotated[str, typer.Option("--project", help="Project that the events belong to.")]


def produce(
    event_type: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", help="Event type, such as MetricReported.")
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option("--data", help="The event's fields as a JSON object; else JSON lines on stdin."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Record key; the event's own by default.")] = None,
    project: Project = "default",
    time: Annotated[
        str | None, typer.Option(help="Event time, RFC 3339 or seconds since 1970; now by default.")
    ] = None,
    event_id: Annotated[str | None, typer.Option("--id", help="Event id; a new one by default.")] = None,
    correlation_id: Annotated[str | None, typer.Option("--correlation", help="Run it belongs to.")] = None,
    causation_id: Annotated[str | None, typer.Option("--causation", help="Event that led to it.")] = None,
    traceparent: Annotated[str | None, typer.Option(help="W3C trace context.")] = None,
) -> None:
    """Write events: one from the arguments, or many as JSON lines from stdin.

    A line is an object with `type` and `data`, and optionally key, project, id, time,
    correlation_id, causation_id and traceparent; with TYPE given it is the event's fields alone.
    A bad line ends the command; the lines before it are written, none after it.
    """
    import asyncio  # noqa: PLC0415

    from streams.cli.lines import Defaults, one, produce_lines  # noqa: PLC0415

    defaults = Defaults(event_type, key, project, time, event_id, correlation_id, causation_id, traceparent)
    lines = [one(defaults, data)] if data is not None else None
    asyncio.run(produce_lines(load_settings(), defaults, lines if lines is not None else sys.stdin.buffer))


def tail(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="Topics; all by default.")
    ] = None,
    *,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only this event type; repeatable.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Only this key.")] = None,
    project: Annotated[str | None, typer.Option(help="Only this project.")] = None,
    correlation: Annotated[str | None, typer.Option(help="Only this correlation id.")] = None,
    since: Annotated[
        str | None, typer.Option(help="From this time of the broker on: 90s, 10m, 2h, 1d, or RFC 3339.")
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="From the first record on.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow/--no-follow", help="Go on as events come, or stop at the log's end of now."),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line; `produce` takes them.")
    ] = False,
) -> None:
    """Show events as they are committed to the log.

    Without --since or --from-beginning it starts at the end of the log; with --no-follow, at its start.
    """
    import asyncio  # noqa: PLC0415

    from streams.cli.times import parse_since  # noqa: PLC0415
    from streams.cli.watch import watch  # noqa: PLC0415
    from streams.tail import Filters, Range  # noqa: PLC0415

    filters = Filters(frozenset(types or ()), key, project, correlation)
    where = Range(parse_since(since), from_beginning, follow)
    asyncio.run(watch(load_settings(), names or [], filters, where, as_json=as_json))


def replay(
    data_format: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT", help="tau-bench, who-and-when, nab, azure-llm, mooncake, bgl or events."
        ),
    ],
    path: Annotated[Path, typer.Argument(help="The data set's folder, or one of its files.")],
    *,
    speed: Annotated[
        str, typer.Option(help="1 is real time, N is N times as fast, max is as fast as it goes.")
    ] = "max",
    project: Annotated[
        str | None, typer.Option(help="Project to replay into; one of its own by default.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave malformed records out and count them.")
    ] = False,
    live: Annotated[bool, typer.Option("--live", help="Into a project whose clock is real time.")] = False,
) -> None:
    """Replay recorded data as events, by default into a project whose clock is that of the data."""
    from streams.replay.command import replay_command  # noqa: PLC0415

    settings = load_settings()
    replay_command(settings, data_format, path, speed=speed, project=project, skip_bad=skip_bad, live=live)
