"""`headwater status` and `doctor`: how it is, and what is wrong."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.guard import load_settings

if TYPE_CHECKING:
    from streams.supervision.overview import Overview

AsJson = Annotated[bool, typer.Option("--json", help="JSON for a program.")]
NOTHING_RUNS = 3
_LOOK_S = 0.5


def status(*, as_json: AsJson = False) -> None:
    """Show processes, lag, counts and ports. Exit code 3 when nothing runs in this data folder."""
    from streams.supervision.overview import Observer, as_json as to_json  # noqa: I001, PLC0415

    settings = load_settings()
    observer = Observer(settings)
    observer.look()
    time.sleep(_LOOK_S)  # two looks make a rate
    seen = observer.look()
    said = to_json(settings, seen)
    if as_json:
        typer.echo(json.dumps(said, indent=1))
    else:
        _print_status(said, seen)
    if not seen.running:
        raise typer.Exit(NOTHING_RUNS)


def _print_status(said: dict[str, Any], seen: Overview) -> None:
    from streams.cli.tables import show  # noqa: PLC0415

    kafka = said["kafka"]
    typer.echo(f"data    {said['data']}")
    answers = "answers" if kafka["reachable"] else "does not answer"
    typer.echo(f"kafka   {kafka['bootstrap']} ({'embedded' if kafka['embedded'] else 'yours'}, {answers})")
    typer.echo(f"disk    {_room(said['disk'])}")
    typer.echo(f"ids     {said['schema_ids']['registry'] or 'the committed ones'} (of schemas)")
    typer.echo(f"api     {said['urls']['api']} (docs: {said['urls']['docs']})")
    typer.echo(f"ports   {', '.join(f'{use} {port}' for use, port in said['ports'].items())}")
    if not seen.running:
        typer.echo("\nNothing runs here. Start it with `headwater up`.")
        return
    counts, rates = said["counts"], said["rates"]
    typer.echo(
        f"events  {counts['events']:,} in ({rates['events_per_s']:,.1f}/s), {counts['outputs']:,} out "
        f"({rates['outputs_per_s']:,.1f}/s), {counts['dead_letters']:,} dead letters, since they started\n"
    )
    show(
        [
            {
                "process": p.name,
                "state": p.state,
                "pid": str(p.pid) if p.pid else None,
                "restarts": p.restarts,
                "up": _span(time.time() - p.since) if p.since else None,
                "cpu": f"{p.cpu:.1%}" if p.cpu is not None else None,
                "memory": f"{p.pss_bytes / 2**20:.0f} MiB" if p.pss_bytes else None,
                "error": p.facts.get("error"),
            }
            for p in seen.processes
        ]
    )
    read = [{"kind": "fold", "name": n, **_progress(f)} for n, f in seen.folds.items()]
    read += [{"kind": "view", "name": n, **_progress(v)} for n, v in seen.views.items()]
    show(read, empty="folds and views have said nothing yet")


def _room(disk: dict[str, Any]) -> str:
    free, reserve = disk["free_bytes"], disk["reserve_bytes"]
    kept = f", {reserve / 2**20:,.0f} MiB are kept in reserve for the log" if reserve is not None else ""
    refused = ": new events are refused" if reserve is not None and free < reserve else ""
    return disk["error"] or f"{free / 2**20:,.0f} MiB free{kept}{refused}"


def _progress(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": ", ".join(map(str, facts.get("versions", ()))) or None,
        "events": facts.get("events"),
        "outputs": facts.get("outputs"),
        "lag": facts.get("lag"),
        "dead_letters": facts.get("dead_letters"),
        "us_an_event": facts.get("us_per_event"),
        "error": facts.get("error"),
    }


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def doctor(*, as_json: AsJson = False) -> None:
    """Look for what is missing or wrong, and say what to do. Exit code 1 when something fails."""
    import asyncio  # noqa: PLC0415

    from streams.doctor import examine  # noqa: PLC0415

    found = asyncio.run(examine(load_settings()))
    failed = sum(f.level == "fail" for f in found)
    if as_json:
        report = {"ok": not failed, "findings": [f._asdict() for f in found]}
        typer.echo(json.dumps(report, indent=1))
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for f in found:
            typer.secho(f"{f.level:<5}", fg=colours[f.level], bold=True, nl=False)
            typer.echo(f"{f.check}: {f.says}")
            if f.do:
                typer.echo(f"     → {f.do}")
        warned = sum(f.level == "warn" for f in found)
        typer.echo(f"\n{len(found)} checks, {warned} warnings, {failed} failures")
    if failed:
        raise typer.Exit(1)
