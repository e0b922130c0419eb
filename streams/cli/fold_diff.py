"""`headwater folds diff`: what a version of a fold would have said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.guard import complain, load_settings
from streams.cli.tables import show

if TYPE_CHECKING:
    from streams.versions.diff import Compared

SAME, DIFFERENT, TROUBLE = 0, 1, 2
_KEYS = 10
AsJson = Annotated[bool, typer.Option("--json", help="JSON for a program.")]


def diff(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A fold; see `headwater folds list`.")],
    *,
    candidate: Annotated[
        int | None, typer.Option(min=1, help="The version to try; the newest installed by default.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Compare outputs to records from then on: 10m, 2h, 7d ago, or RFC 3339."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a version over the history beside the one in force, writing nothing, and show what differs.

    Exit code 0 when nothing does, 1 when something does, 2 when they could not be compared.
    """
    import asyncio  # noqa: PLC0415

    from schemas.errors import HeadwaterError  # noqa: PLC0415
    from streams.cli.times import parse_since  # noqa: PLC0415

    try:
        found = asyncio.run(_compare(name, candidate, parse_since(since)))
    except HeadwaterError as error:
        complain(error)
        raise typer.Exit(TROUBLE) from None
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=1))
    else:
        _print(found)
    raise typer.Exit(SAME if found.same else DIFFERENT)


async def _compare(name: str, candidate: int | None, since: float | None) -> Compared:
    from streams.partitions.log import FOLDS  # noqa: PLC0415
    from streams.secret import secret_of  # noqa: PLC0415
    from streams.versions.diff import Differ, chosen  # noqa: PLC0415
    from streams.versions.recorded import places_of  # noqa: PLC0415
    from streams.versions.session import session  # noqa: PLC0415

    settings = load_settings()
    async with session(settings) as at:
        versions = chosen(name, candidate, at.installed, at.decisions)[0]
        places = places_of(versions, at.counts)
        if warning := await at.part_of_history(places):
            typer.echo(f"warning: {warning}", err=True)
        total = sum([await at.length(*place) for place in places])
        with _progress(f"compare {name}", total) as advance:
            differ = Differ(
                name,
                candidate,
                at.installed,
                at.decisions,
                at.log,
                at.codec,
                secret=secret_of(settings),
                context=settings.named(FOLDS),
                since=since,
                advance=advance,
            )
            return await differ.run(places)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Any]:
    """A bar on stderr; gives what is to be told of each step."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total)
        yield lambda steps: bars.update(task, advance=steps)


def _as_json(found: Compared) -> dict[str, Any]:
    from streams.versions.comparing import VERDICTS  # noqa: PLC0415

    counted = found.comparison
    return {
        "fold": found.fold,
        "in_force": found.old,
        "candidate": found.new,
        "same": found.same,
        "inputs": counted.inputs,
        "outputs": {name: {v: by[v] for v in VERDICTS} for name, by in sorted(counted.counts.items())},
        "keys": dict(sorted(((k or "others", n) for k, n in counted.keys.items()), key=_most)),
        "examples": [example._asdict() | {"given": example.given._asdict()} for example in counted.examples],
        "raised": [raised._asdict() for raised in found.raised],
        "compared": {f"{topic}/{p}": list(range_) for (topic, p), range_ in found.ranges.items()},
        "seconds": round(found.seconds, 3),
    }


def _most(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _print(found: Compared) -> None:
    from streams.versions.comparing import VERDICTS  # noqa: PLC0415

    counted = found.comparison
    typer.echo(
        f"{found.fold}: version {found.new} beside version {found.old}, which is in force; "
        f"{counted.inputs:,} inputs in {found.seconds:.1f} s"
    )
    rows = [{"event": name, **{v: by[v] for v in VERDICTS}} for name, by in sorted(counted.counts.items())]
    show(rows, empty="neither says anything")
    if counted.keys:
        most = sorted(((k or "others", n) for k, n in counted.keys.items()), key=_most)
        show([{"key": key, "differences": n} for key, n in most[:_KEYS]])
    for example in counted.examples:
        given = example.given
        at = f" at the tick {given.at}" if given.at is not None else ""
        typer.echo(
            f"{example.verdict.replace('_', ' ')}: {example.event} of {example.key}, "
            f"{given.topic}/{given.partition}@{given.offset}{at}"
        )
        for side, fields, other in (("-", example.old, example.new), ("+", example.new, example.old)):
            if fields is not None:
                shown = {k: v for k, v in fields.items() if other is None or other[k] != v}
                typer.echo(f"  {side} {json.dumps(shown, ensure_ascii=False)}")
    for raised in found.raised:
        where = f"{raised.topic}/{raised.partition}@{raised.offset}"
        typer.echo(f"raised: version {raised.version} on {where} ({raised.key}): {raised.why}")
    typer.echo("nothing differs" if found.same else f"{counted.differences:,} outputs differ")
