"""What has to be true of Kafka before processes start: topics made, or checked and never changed."""

from __future__ import annotations

from schemas.errors import ConfigurationError
from streams.admin import admin_client, declared, ensure_topics, existing
from streams.settings import Settings


async def prepare(settings: Settings) -> list[str]:
    """Create the embedded broker's topics; of a cluster of the user's, look whether they are there.

    Returns lines to be shown. Raises ConfigurationError where topics are missing from a cluster, or
    where one has another partition count than declared.
    """
    if settings.embedded:
        created = await ensure_topics(settings)
        return [f"created {len(created)} topics"] if created else []
    wanted = declared(settings)
    async with admin_client(settings) as client:
        there = await existing(client, settings, wanted)
    missing = [settings.named(s.name) for s in wanted if s.name not in there]
    if missing:
        raise ConfigurationError(
            f"{len(missing)} of {len(wanted)} topics are missing at {settings.bootstrap}: "
            + ", ".join(missing[:5])
            + (", …" if len(missing) > 5 else ""),
            hint="make them with `headwater topics create`",
        )
    other = [
        f"{s.name} has {there[s.name]}, not {s.partitions}" for s in wanted if there[s.name] != s.partitions
    ]
    if other:
        raise ConfigurationError(
            f"partition counts differ from what is declared: {'; '.join(other)}",
            hint="set HEADWATER_PARTITIONS / HEADWATER_RAW_PARTITIONS to what is there",
        )
    return []
