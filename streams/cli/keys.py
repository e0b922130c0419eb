"""`headwater keys`: who may come in at the doors, for how long, and with how much."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from streams.cli.guard import load_settings
from streams.cli.tables import show

keys = typer.Typer(no_args_is_help=True, help="API keys: create, list, rotate, limit, revoke.")

KeyId = Annotated[str, typer.Argument(metavar="ID", help="See `headwater keys list`.")]
EventsPerSecond = Annotated[
    float | None, typer.Option(help="Events a second, in the long run; 0: no limit. Else the default.")
]
Burst = Annotated[
    float | None,
    typer.Option(help="Events that may come at once after a rest; else what five seconds bring."),
]
BytesPerSecond = Annotated[
    float | None, typer.Option(help="Bytes of request bodies a second; 0: no limit. Else the default.")
]


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for; one of its own within the project.")],
    *,
    project: Annotated[str, typer.Option(help="The one project that it opens.")] = "default",
    scopes: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="produce (all raw topics), produce:<topic>, read (the query API) or admin; repeatable. "
            "Default: produce and read.",
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="90d or 12h from now, or RFC 3339; never by default.")
    ] = None,
    events_per_second: EventsPerSecond = None,
    burst: Burst = None,
    bytes_per_second: BytesPerSecond = None,
) -> None:
    """Make an API key of one project and print it: it is shown this once."""
    from streams.cli.times import parse_expiry  # noqa: PLC0415
    from streams.keys import PRODUCE, Quota, create  # noqa: PLC0415

    quota = Quota(events_per_second, burst, bytes_per_second)
    wanted = scopes or (PRODUCE, "read")
    typer.echo(create(load_settings(), project, wanted, name, expires=parse_expiry(expires), quota=quota))


@keys.command("list")
def list_keys(
    *, as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False
) -> None:
    """List the projects' keys; the keys themselves are not kept.

    The last use is written once a minute and when a gateway stops: it may be a minute old, and a
    gateway that was killed has lost its last minute.
    """
    import time  # noqa: PLC0415

    from streams.keys import list_keys as found  # noqa: PLC0415
    from streams.keys.uses import last_uses  # noqa: PLC0415

    settings = load_settings()
    uses, now = last_uses(settings), time.time()
    rows = [_row(key, uses.get(key.id), now) for key in found(settings)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    show(
        [_for_people(row) for row in rows],
        title="API keys (last use: as of a minute ago)",
        empty="no project has a key; `headwater keys create NAME` makes one",
    )


@keys.command("rotate")
def rotate_key(
    key_id: KeyId,
    *,
    overlap: Annotated[
        str, typer.Option(help="How long the old secret goes on working: 24h, 30m; 0: no longer.")
    ] = "24h",
    expires: Annotated[
        str | None, typer.Option(help="When the key ends: 90d from now, or RFC 3339; else as it was.")
    ] = None,
) -> None:
    """Give a key a new secret and print it: it is shown this once. Id, project, scopes and quota stay."""
    from schemas.envelope import format_time  # noqa: PLC0415
    from streams.cli.times import parse_duration, parse_expiry  # noqa: PLC0415
    from streams.keys import rotate  # noqa: PLC0415

    secret, key = rotate(
        load_settings(), key_id, parse_duration(overlap, "--overlap"), expires=parse_expiry(expires)
    )
    typer.echo(secret)
    typer.echo(
        f"the old secret of {key.id} ({key.name}) works until {format_time(key.replaced[0].until)}", err=True
    )


@keys.command("limit")
def limit_key(
    key_id: KeyId,
    *,
    events_per_second: EventsPerSecond = None,
    burst: Burst = None,
    bytes_per_second: BytesPerSecond = None,
) -> None:
    """Give a key another quota, from now on; without options: the default again."""
    from streams.keys import Quota, limit  # noqa: PLC0415

    key = limit(load_settings(), key_id, Quota(events_per_second, burst, bytes_per_second))
    typer.echo(f"{key.id} ({key.name}, project {key.project}): {said(_quota(key.quota))}")


@keys.command("revoke")
def revoke_key(key_id: KeyId) -> None:
    """Take a key's rights from now on."""
    from streams.keys import revoke  # noqa: PLC0415

    gone = revoke(load_settings(), key_id)
    typer.echo(f"revoked {gone.id} ({gone.name}, project {gone.project})")


def said(quota: dict[str, Any]) -> str:
    """A quota in words."""
    parts = [f"{value:,g} {name.replace('_', ' ')}" for name, value in quota.items() if value is not None]
    return ", ".join(parts) or "default"


def _row(key: Any, use: Any, now: float) -> dict[str, Any]:
    from streams.keys.making import state_of  # noqa: PLC0415

    state = state_of(key, now)
    return {
        "id": key.id,
        "name": key.name,
        "project": key.project,
        "scopes": list(key.scopes),
        "state": state.name,
        "rotating_until": _time(state.until),
        "created": _time(key.created),
        "expires": _time(key.expires),
        "last_used": _time(use.at) if use else None,
        "last_used_at": use.door if use else None,
        "quota": _quota(key.quota),
    }


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    """The same in fewer columns."""
    until = row["rotating_until"]
    used = [row["last_used"], row["last_used_at"]] if row["last_used"] else None
    return {name: row[name] for name in ("id", "name", "project", "scopes")} | {
        "state": f"{row['state']} until {until}" if until else row["state"],
        "created": row["created"],
        "expires": row["expires"],
        "last_use": used,
        "quota": said(row["quota"]),
    }


def _quota(quota: Any) -> dict[str, float | None]:
    return {name: getattr(quota, name) for name in quota.__struct_fields__}


def _time(seconds: float | None) -> str | None:
    from schemas.envelope import format_time  # noqa: PLC0415

    return None if seconds is None else f"{format_time(seconds)[:19]}Z"
