"""`headwater folds`: the process; and which versions of folds there are, what a change would change, and the change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import fold_diff, processes
from streams.cli.fold_diff import AsJson
from streams.cli.guard import load_settings
from streams.cli.tables import show

if TYPE_CHECKING:
    from streams.versions.cut_over import Asked, CutOver
    from streams.versions.listing import Listed
    from streams.versions.session import Session

folds = typer.Typer(invoke_without_command=True)
folds.command("diff")(fold_diff.diff)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A fold; see `headwater folds list`.")]


@folds.callback()
def run_folds(context: typer.Context) -> None:
    """Run the folds in the foreground; or list their versions, compare two, or cut over to another."""
    if context.invoked_subcommand is None:
        processes.folds()


@folds.command("list")
def list_folds(*, as_json: AsJson = False) -> None:
    """List the folds: versions installed here, the version in force, and since which position."""
    import asyncio  # noqa: PLC0415

    from streams.versions.session import session  # noqa: PLC0415

    async def found() -> list[Listed]:
        async with session(load_settings()) as at:
            return await at.listing()

    rows = [_row(fold) for fold in asyncio.run(found())]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    show(
        [
            {
                "fold": row["fold"],
                "installed": ", ".join(map(str, row["installed"])),
                "in_force": row["in_force"],
                "since": [_since(place) for place in row["partitions"] if place["since"] is not None]
                or ("the beginning" if row["in_force"] is not None else None),
                "decided": f"{row['decided_at']} by {row['by']}" if row["in_force"] is not None else None,
                "under_way": _under_way(row),
            }
            for row in rows
        ],
        title="Folds",
    )


def _row(fold: Listed) -> dict[str, Any]:
    from schemas.envelope import format_time  # noqa: PLC0415

    standing = fold.standing
    proposed = standing.proposed if standing is not None else None
    return {
        "fold": fold.name,
        "installed": list(fold.installed),
        "in_force": standing.version if standing is not None else None,
        "decided_at": format_time(standing.at) if standing is not None else None,
        "by": standing.decided.by if standing is not None else None,
        "reason": standing.decided.reason if standing is not None else None,
        "proposed": proposed.to_version if proposed is not None else None,
        "proposed_by": proposed.by if proposed is not None else None,
        "proposed_at": format_time(standing.proposed_at)
        if standing is not None and proposed is not None
        else None,
        "behind": [f"{topic}/{partition}" for topic, partition in fold.behind] if standing else [],
        "partitions": [
            {
                "topic": topic,
                "partition": partition,
                "version": had.version,
                "since": had.switch.position if had.switch is not None else None,
                "state": had.switch.state if had.switch is not None else None,
            }
            for (topic, partition), had in fold.places.items()
        ],
    }


def _since(place: dict[str, Any]) -> str:
    return f"{place['topic']}/{place['partition']}@{place['since']} ({place['version']}, {place['state']})"


def _under_way(row: dict[str, Any]) -> str | None:
    if row["proposed"] is not None:
        return f"to version {row['proposed']}, proposed {row['proposed_at']} by {row['proposed_by']}"
    if row["behind"]:
        return f"{len(row['behind'])} of {len(row['partitions'])} partitions have yet to switch"
    return None


@folds.command("cut-over")
def cut_over_fold(
    name: Name,
    *,
    to: Annotated[
        int | None,
        typer.Option(min=1, help="The version; the newest installed by default. An older one rolls back."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the log.")] = "",
    refold: Annotated[
        bool, typer.Option("--refold", help="Fold the log anew, though the version could migrate the state.")
    ] = False,
    at_once: Annotated[
        bool,
        typer.Option(
            "--at-once",
            help="Do not wait for the workers to get ready: each partition stands still while it folds its log "
            "anew. For when the version in force is so broken that workers do not come up.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Give up the one that is under way.")] = False,
    timeout: Annotated[
        str, typer.Option(help="How long the partitions may take to get ready; then nothing is changed.")
    ] = "10m",
) -> None:
    """Put another version of a fold in force, in every partition from a recorded position on; or roll back."""
    import asyncio  # noqa: PLC0415

    from streams.cli.times import parse_duration  # noqa: PLC0415
    from streams.versions.cut_over import Asked  # noqa: PLC0415

    timeout_s = parse_duration(timeout, "--timeout")
    if cancel:
        asyncio.run(_cancel(name))
        return
    asked = Asked(name, to, _whoami(), reason, refold, at_once)
    asyncio.run(_cut_over(asked, timeout_s, dry_run=dry_run, yes=yes))


async def _cut_over(asked: Asked, timeout_s: float, *, dry_run: bool, yes: bool) -> None:
    from streams.versions.session import carry_out, manned, session  # noqa: PLC0415

    settings = load_settings()
    async with session(settings) as at:
        command = at.cut_over(asked)
        await command.look()
        typer.echo(await _described(at, command))
        if dry_run:
            return
        if not yes and not _confirmed():
            raise typer.Exit(1)
        said: list[str] = []

        def report(now: CutOver) -> None:
            done, of = (
                (len(now.ready | now.switched.keys()), "ready")
                if now.record.phase == "proposed"
                else (len(now.switched), "switched")
            )
            line = f"{done} of {now.partitions} partitions {of}"
            if line not in said:
                said.append(line)
                typer.echo(line, err=True)

        await carry_out(command, timeout_s, report, lambda: manned(settings))
        if command.unswitched:
            typer.echo(
                f"fold {asked.fold}: version {command.record.to_version} is decided, and no worker is up: start the "
                "workers now, each partition folds its log anew and goes on (see `headwater folds list`)"
            )
            return
        states = sorted({fact.state for fact in command.switched.values() if fact is not None})
        typer.echo(
            f"fold {asked.fold}: version {command.record.to_version} is in force in {command.partitions} "
            f"partitions ({', '.join(states) or 'as before'})"
        )
        for (topic, partition), fact in sorted(command.switched.items()):
            since = f"offset {fact.position}" if fact is not None else "the beginning"
            typer.echo(f"  {topic}/{partition} from {since}")


def _confirmed() -> bool:
    """Ask. The event loop's Ctrl-C would end what waits for the loop, and this does not."""
    import signal  # noqa: PLC0415

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm("Do it?", err=True)
    finally:
        signal.signal(signal.SIGINT, before)


async def _state_of(at: Session, command: CutOver) -> str:
    """What becomes of the state."""
    record = command.record
    if at.installed[record.fold][record.to_version].state is None:
        return "it keeps no state"
    if record.state == "migrate":
        return f"it takes over the state of version {record.from_version} (migrate)"
    length = sum([await at.length(*place) for place in command.places])
    warning = await at.part_of_history(command.places)
    warned = f"\n  warning: {warning}" if warning else ""
    if record.at_once:
        return f"each partition stands still while its log is folded anew ({length:,} offsets in all){warned}"
    return (
        f"its state is folded anew from the log ({length:,} offsets) by the workers beside their work, "
        f"which takes memory and time from them; then each partition switches between two batches{warned}"
    )


async def _described(at: Session, command: CutOver) -> str:
    record = command.record
    versions = at.installed[record.fold]
    back = (
        f"headwater folds cut-over {record.fold} --to {record.from_version}"
        if record.from_version in versions
        else f"not possible from here: version {record.from_version} is not installed"
    )
    standing = at.decisions.plan.folds[record.fold]
    joins = f"\n  joins: the one proposed by {record.by}, which stands if this command ends first"
    return (
        f"fold {record.fold}: version {record.from_version} -> {record.to_version}, "
        f"{command.partitions} partitions\n  state: {await _state_of(at, command)}\n  back:  {back}"
        f"{joins if standing.proposed == record else ''}"
    )


async def _cancel(name: str) -> None:
    from processors.versions import versions_of  # noqa: PLC0415
    from streams.versions.cut_over import CutOverRefused  # noqa: PLC0415
    from streams.versions.session import session  # noqa: PLC0415

    async with session(load_settings()) as at:
        versions_of(at.installed, name)
        standing = at.decisions.plan.folds.get(name)
        if standing is None or standing.proposed is None:
            raise CutOverRefused(f"fold {name}: no cut-over is under way", hint="see `headwater folds list`")
        command = at.resumed(standing.proposed)
        if not await command.cancel():
            raise CutOverRefused(
                f"fold {name}: it was decided in the meantime", hint="roll back with --to instead"
            )
    typer.echo(f"fold {name}: the cut-over to version {command.record.to_version} is given up")


def _whoami() -> str:
    import getpass  # noqa: PLC0415
    import socket  # noqa: PLC0415

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no such user: a container with any uid
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
