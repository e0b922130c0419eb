"""`headwater views` and `dead-letters`: what an operator does now and then."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from streams.cli import processes
from streams.cli.guard import load_settings, tell_faults
from streams.cli.tables import show

views = typer.Typer(invoke_without_command=True)
dead_letters = typer.Typer(no_args_is_help=True, help="Records that no fold could take: list, replay.")

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@views.callback()
def run_views(context: typer.Context) -> None:
    """Run the views in the foreground; or list them, or rebuild one."""
    if context.invoked_subcommand is None:
        processes.views()


@views.command("list")
def list_views(*, as_json: AsJson = False) -> None:
    """List the views and how much of the log they reflect."""
    from streams.views.follower import list_views as found  # noqa: PLC0415

    tell_faults()
    rows = [
        {
            "view": v.name,
            "state": v.state,
            "version": v.version,
            "generation": v.generation,
            "reads": list(v.topics),
            "offsets": sum(v.offsets.values()),
            "about": v.about,
        }
        for v in found(load_settings())
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    show(rows, title="Views")


@views.command("rebuild")
def rebuild_view(name: Annotated[str, typer.Argument(help="A view, or `all`.")]) -> None:
    """Make a view anew from the log and put it in place of the live one."""
    import asyncio  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from projections.catalog import usable as catalog  # noqa: PLC0415
    from streams.views.follower import rebuild  # noqa: PLC0415

    settings = load_settings()
    for each in [v.name for v in catalog()] if name == "all" else [name]:
        with Progress(console=Console(stderr=True)) as bars:
            task = bars.add_task(f"rebuild {each}", total=None)

            def advance(read: int, total: int) -> None:
                bars.update(task, completed=read, total=total)  # noqa: B023 - called within this turn

            done = asyncio.run(rebuild(settings, each, progress=advance))
        typer.echo(
            f"{done.name}: {done.events:,} events in {done.seconds:.1f} s, {done.skipped:,} skipped, "
            f"generation {done.generation}"
        )


@dead_letters.command("list")
def list_dead_letters(
    *,
    project: Annotated[str | None, typer.Option(help="Only this project.")] = None,
    as_json: AsJson = False,
) -> None:
    """List every dead letter in the log: where the record was, which fold could not take it, and why."""
    import asyncio  # noqa: PLC0415

    from streams.cli.letters import collect  # noqa: PLC0415

    rows = asyncio.run(collect(load_settings(), project))
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    show(rows, title="Dead letters", empty="no dead letters")


@dead_letters.command("replay")
def replay_dead_letter(
    topic: Annotated[str, typer.Argument(help="Topic of the record that no fold could take.")],
    partition: Annotated[int, typer.Argument(min=0)],
    offset: Annotated[int, typer.Argument(min=0)],
    *,
    fold: Annotated[str | None, typer.Option(help="Only this fold's letter; each fold's by default.")] = None,
) -> None:
    """Give a dead letter's record again to the fold that could not take it."""
    import asyncio  # noqa: PLC0415

    from streams.dead_letters import replay  # noqa: PLC0415

    for position in asyncio.run(replay(load_settings(), topic, partition, offset, fold)):
        typer.echo(f"given again as {position.topic}/{position.partition}@{position.offset}")
