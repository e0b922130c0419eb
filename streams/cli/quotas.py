"""`headwater quotas`: how much the keys of a project may send together."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from streams.cli.guard import load_settings
from streams.cli.tables import show

quotas = typer.Typer(no_args_is_help=True, help="What a project's keys may send together: set, list, remove.")

Project = Annotated[str, typer.Argument(help="A project.")]


@quotas.command("set")
def set_quota(
    project: Project,
    *,
    events_per_second: Annotated[float | None, typer.Option(help="Events a second, in the long run.")] = None,
    burst: Annotated[
        float | None, typer.Option(help="Events at once after a rest; else what five seconds bring.")
    ] = None,
    bytes_per_second: Annotated[float | None, typer.Option(help="Bytes of request bodies a second.")] = None,
) -> None:
    """Limit a project, from now on; each of its keys has its own quota beside."""
    from streams.keys.kept import Quota  # noqa: PLC0415
    from streams.keys.quotas import set_quota as put  # noqa: PLC0415

    put(load_settings(), project, Quota(events_per_second, burst, bytes_per_second))


@quotas.command("list")
def list_quotas(
    *, as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False
) -> None:
    """List the projects that have a quota. `headwater keys list` shows those of keys."""
    from streams.keys.quotas import list_quotas as found  # noqa: PLC0415

    rows = [
        {
            "project": project,
            "events_per_second": quota.events_per_second,
            "burst": quota.burst,
            "bytes_per_second": quota.bytes_per_second,
        }
        for project, quota in found(load_settings()).items()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    show(
        rows,
        title="Quotas of projects",
        empty="no project has a quota; its keys have the default, or their own",
    )


@quotas.command("remove")
def remove_quota(project: Project) -> None:
    """Take a project's quota away, from now on."""
    from streams.keys.quotas import remove_quota as remove  # noqa: PLC0415

    remove(load_settings(), project)
