"""`headwater topics`, `schemas` and `topology`: what is declared in code, and what Kafka has of it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from streams.cli.guard import load_settings, tell_faults
from streams.cli.tables import show

topics = typer.Typer(no_args_is_help=True, help="Topics as declared: list them, create them.")
schemas = typer.Typer(no_args_is_help=True, help="Schemas of the events: list, show, check, register.")

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@topics.command("list")
def list_topics(*, as_json: AsJson = False) -> None:
    """List every declared topic, and whether Kafka has it."""
    import asyncio  # noqa: PLC0415

    from schemas.catalog import topics as known  # noqa: PLC0415
    from schemas.errors import BrokerUnavailable  # noqa: PLC0415
    from streams.admin import admin_client, declared, existing  # noqa: PLC0415
    from streams.supervision.overview import reachable  # noqa: PLC0415

    settings = load_settings()
    tell_faults()
    wanted = declared(settings)

    async def partitions() -> dict[str, int]:
        async with admin_client(settings) as client:
            return await existing(client, settings, wanted)

    there: dict[str, int] | None = None
    if reachable(settings.bootstrap):
        try:
            there = asyncio.run(partitions())
        except BrokerUnavailable:
            there = None
    rows = []
    for spec in wanted:
        topic = known().get(spec.name)
        rows.append(
            {
                "topic": settings.named(spec.name),
                "kind": topic.kind if topic else "internal",
                "partitions": spec.partitions,
                "in_kafka": None if there is None else there.get(spec.name, 0),
                "events": [e.__name__ for e in topic.events] if topic else [],
                "about": topic.about if topic else "",
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    show(rows, title=f"Topics at {settings.bootstrap}" + ("" if there is not None else " (not reachable)"))


@topics.command("create")
def create_topics() -> None:
    """Create what is missing; refuse where a topic has another partition count than declared.

    With HEADWATER_REGISTRY it registers the schemas first, as `headwater schemas register` does.
    """
    import asyncio  # noqa: PLC0415

    from streams.supervision.prepare import create  # noqa: PLC0415

    settings = load_settings()
    created, registered = asyncio.run(create(settings))
    if registered:
        typer.echo(f"registered {len(registered)}: {', '.join(registered)}")
    typer.echo(f"created {len(created)}: {', '.join(created)}" if created else "all topics are there")


@topics.command("prepare", hidden=True)
def prepare_topics() -> None:
    """For `headwater up`: create the topics of an embedded broker; of your own cluster, only look."""
    import asyncio  # noqa: PLC0415

    from streams.supervision.prepare import prepare  # noqa: PLC0415
    from streams.supervision.process import supervised, wait_for_go  # noqa: PLC0415

    settings = load_settings()
    if supervised():
        wait_for_go()
    for line in asyncio.run(prepare(settings)):
        typer.echo(line)


@schemas.command("list")
def list_schemas(*, as_json: AsJson = False) -> None:
    """List subjects, versions and the ids in force."""
    import asyncio  # noqa: PLC0415

    from streams.codec import ids_of  # noqa: PLC0415

    settings = load_settings()
    tell_faults()
    ids = asyncio.run(ids_of(settings))
    rows = [
        {"event": r.name, "subject": r.subject, "version": r.version, "id": r.id}
        for subject in sorted(ids.versions)
        for r in ids.versions[subject]
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    show(rows, title=f"Schemas, with the ids of {settings.registry_url or 'the committed lock file'}")


@schemas.command("show")
def show_schema(
    event: Annotated[str, typer.Argument(help="An event type, or a schema id.")],
    version: Annotated[int | None, typer.Option(help="A version; the newest by default.")] = None,
) -> None:
    """Print one Avro schema."""
    import asyncio  # noqa: PLC0415

    from schemas.errors import InvalidEvent  # noqa: PLC0415
    from streams.codec import ids_of  # noqa: PLC0415

    registry = asyncio.run(ids_of(load_settings()))
    if event.isdigit():
        found = [registry.by_id[int(event)]] if int(event) in registry.by_id else []
    else:
        found = registry.named(event)
    found = [r for r in found if version in (None, r.version)]
    if not found:
        wanted = f"{event} version {version}" if version else event
        raise InvalidEvent(f"there is no schema {wanted}", hint="`headwater schemas list` names them")
    typer.echo(json.dumps(found[-1].definition, indent=2))


@schemas.command("register")
def register_schemas() -> None:
    """Register in HEADWATER_REGISTRY what it lacks; refuse where a subject is taken by another schema."""
    import asyncio  # noqa: PLC0415

    from schemas.errors import ConfigurationError  # noqa: PLC0415
    from streams.authority.settle import settle  # noqa: PLC0415

    settings = load_settings()
    if settings.registry is None:
        raise ConfigurationError(
            "HEADWATER_REGISTRY is not set: schema ids are the committed ones",
            hint="set it to a schema registry that speaks Confluent's API",
        )
    _, registered = asyncio.run(settle(settings))
    typer.echo(
        f"registered {len(registered)}: {', '.join(registered)}" if registered else "all schemas are there"
    )


@schemas.command("check")
def check_schemas() -> None:
    """Check that schemas, ours and those of installed packages, equal the models and read every earlier version."""
    from schemas import catalog, locks, registry  # noqa: PLC0415
    from schemas.extension import require_none  # noqa: PLC0415

    registry.check()
    require_none([*catalog.survey().faults, *locks.survey().faults])
    locks.check()
    count = len(locks.registry().versions)
    typer.echo(f"{count} schemas equal the models and read their earlier versions")


@schemas.command("lock")
def lock_schemas(
    module: Annotated[
        str, typer.Argument(help="Module of your package that declares its topics, such as acme.events.")
    ],
) -> None:
    """Write the schemas of a module's event types to the lock file beside it; refuse an incompatible change."""
    from schemas.locks import lock, path_of  # noqa: PLC0415
    from streams.modules import imported  # noqa: PLC0415

    found = imported(module)
    added = lock(found)
    path = path_of(found)
    typer.echo(f"{path}: {', '.join(added)}" if added else f"{path}: nothing changed")


def _in_force() -> dict[str, int]:
    """By fold; empty where nobody can be asked, or no fold has run yet."""
    import asyncio  # noqa: PLC0415

    from schemas.errors import HeadwaterError  # noqa: PLC0415
    from streams.supervision.overview import reachable  # noqa: PLC0415
    from streams.versions.session import in_force  # noqa: PLC0415

    settings = load_settings()
    if not reachable(settings.bootstrap):
        return {}
    try:
        return asyncio.run(in_force(settings))
    except HeadwaterError:
        return {}


def topology(*, as_json: AsJson = False) -> None:
    """Print every version of every fold: what it reads, keeps and writes, and whether it is in force."""
    from processors.catalog import survey, usable  # noqa: PLC0415
    from processors.versions import label  # noqa: PLC0415
    from schemas.topics import changelog, topic_of  # noqa: PLC0415

    tell_faults()
    packages = {label(added.value()): added.package for added in survey().found}
    versions = _in_force()
    rows = [
        {
            "fold": f"{fold.name} v{fold.version}",
            "in_force": versions[fold.name] == fold.version if fold.name in versions else None,
            "reads": [t.name for t in fold.topics],
            "events": [e.__name__ for e in fold.accepts],
            "state": fold.state.__name__ if fold.state is not None else None,
            "changelog": [changelog(t.name) for t in fold.topics] if fold.state is not None else [],
            "writes": sorted({f"{topic_of(e).name}: {e.__name__}" for e in fold.emits}),
            "package": packages.get(label(fold)),
        }
        for fold in usable()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    show(rows, title="Folds")
