"""Before processes start: the registry has all schemas, and its ids fit the log, or nothing is changed."""

from __future__ import annotations

from schemas.locks import registry as every_schema
from schemas.registry import Registry
from streams.authority.issued import COMMITTED, as_issued, compare, issued_ids
from streams.settings import Settings


async def settle(settings: Settings) -> tuple[Registry, list[str]]:
    """The ids in force, and which schemas were registered for that.

    Raises ConfigurationError where ids do not fit the log and SchemaIncompatible where a subject is
    taken, both before anything is registered; RegistryUnavailable.
    """
    committed = every_schema()
    recorded = await issued_ids(settings).load()
    if settings.registry is None:
        compare(recorded, as_issued(committed, COMMITTED), (), COMMITTED)
        return committed, []
    from streams.authority.confluent import SchemaRegistry  # noqa: PLC0415 - httpx takes 0.1 s, most do without
    from streams.authority.registering import find, register  # noqa: PLC0415

    async with SchemaRegistry(settings.registry.get_secret_value()) as registry:
        found = await find(registry, committed)
        compare(recorded, as_issued(found.known, registry.url), found.lacking, registry.url)
        added = await register(registry, found.lacking)
        if added:
            found = await find(registry, committed)
        ids = found.complete(registry.url)
        compare(recorded, as_issued(ids, registry.url), (), registry.url)
        return ids, added


async def remember(settings: Settings, ids: Registry) -> None:
    """Note in the log's memory that these ids are in force. Raises ConfigurationError where they do not fit."""
    await issued_ids(settings).add(as_issued(ids, settings.registry_url or COMMITTED))
