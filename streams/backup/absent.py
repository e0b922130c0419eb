"""What a backup does not hold, in words: it is elsewhere, and something else copies it."""

from __future__ import annotations

from streams.settings import Settings


def absent(settings: Settings) -> list[str]:
    """A sentence for each thing that this instance needs and has outside its data folder."""
    found = []
    if not settings.embedded:
        found.append(
            f"the log, with topics, positions of groups and state of folds: it is in your Kafka at "
            f"{settings.bootstrap}; MirrorMaker 2 copies it, or snapshots of all its brokers' disks"
        )
        if (settings.data / "kafka").is_dir():
            found.append("kafka/ in the data folder: the log of an embedded broker that is not in use")
    if settings.database is not None:
        found.append(
            "the views: they are in HEADWATER_DATABASE; `pg_dump` copies them, and after a restore "
            "`headwater views rebuild all` makes them anew from the log"
        )
    if settings.api_key is not None:
        found.append("the administrator's API key: it is in HEADWATER_API_KEY")
    if settings.snapshot_key is not None:
        found.append(
            "the key that signs snapshots: it is in HEADWATER_SNAPSHOT_KEY; with another one all state is "
            "folded anew, and webhooks have other secrets"
        )
    if settings.registry_url is not None:
        found.append(f"the schemas at {settings.registry_url}")
    return found
