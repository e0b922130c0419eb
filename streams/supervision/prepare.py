"""What has to be true before processes start: a database that answers, schema ids settled, topics as declared."""

from __future__ import annotations

import asyncio

from schemas.errors import ConfigurationError
from streams.admin import admin_client, declared, ensure_topics, existing, missing_hint
from streams.authority.settle import remember, settle
from streams.extensions import require_whole
from streams.settings import Settings


async def prepare(settings: Settings) -> list[str]:
    """Create what an embedded broker needs; of a cluster of the user's, look whether its topics are there.

    Schemas that a registry lacks are registered. Returns lines to be shown. Raises ConfigurationError
    where a package adds what cannot be used, where topics are missing from a cluster, where one has
    another partition count than declared, or where schema ids do not fit the log;
    RegistryUnavailable, SchemaIncompatible; what `projections.database.check` raises.
    """
    require_whole()
    if settings.database is not None:
        from projections.database import check  # noqa: PLC0415 - brings SQLAlchemy along

        await asyncio.to_thread(check, settings.database_url)
    if settings.embedded:
        created, registered = await create(settings)
        return _registered(settings, registered) + ([f"created {len(created)} topics"] if created else [])
    wanted = declared(settings)
    async with admin_client(settings) as client:
        there = await existing(client, settings, wanted)
    missing = [settings.named(s.name) for s in wanted if s.name not in there]
    if missing:
        raise ConfigurationError(
            f"{len(missing)} of {len(wanted)} topics are missing at {settings.bootstrap}: "
            + ", ".join(missing[:5])
            + (", …" if len(missing) > 5 else ""),
            hint=missing_hint(settings),
        )
    other = [
        f"{s.name} has {there[s.name]}, not {s.partitions}" for s in wanted if there[s.name] != s.partitions
    ]
    if other:
        raise ConfigurationError(
            f"partition counts differ from what is declared: {'; '.join(other)}",
            hint="set HEADWATER_PARTITIONS / HEADWATER_RAW_PARTITIONS to what is there",
        )
    ids, registered = await settle(settings)
    await remember(settings, ids)
    return _registered(settings, registered)


async def create(settings: Settings) -> tuple[list[str], list[str]]:
    """Create missing topics and register missing schemas; returns the names of both. Raises as `prepare`."""
    require_whole()
    ids, registered = await settle(settings)
    created = await ensure_topics(settings)
    await remember(settings, ids)
    return created, registered


def _registered(settings: Settings, schemas: list[str]) -> list[str]:
    return [f"registered {len(schemas)} schemas at {settings.registry_url}"] if schemas else []
