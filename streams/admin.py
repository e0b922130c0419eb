"""Topics as they are declared: made once, compared ever after, never changed in silence."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from processors.catalog import usable as folds
from processors.fold import Fold
from schemas import catalog, topics
from schemas.errors import ConfigurationError
from streams.kafka import COMMAND_S, client_options, connect, patiently
from streams.reactors.catalog import usable as usable_reactors
from streams.reactors.reactor import Reactor
from streams.settings import Settings

DEADLINE_S = 30.0
LETTER_BYTES = 256 * 1024
_ASK_MS = 15_000
# Small segments, rolled often: only closed segments are compacted.
_COMPACTED = {
    "cleanup.policy": "compact",
    "segment.bytes": str(8 * 1024 * 1024),
    "segment.ms": str(10 * 60 * 1000),
    "min.cleanable.dirty.ratio": "0.3",
}
_KEPT = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


@dataclass(frozen=True)
class TopicSpec:
    """A topic as it has to be in Kafka. `name` is without namespace."""

    name: str
    partitions: int
    config: dict[str, str]


def declared(
    settings: Settings,
    of: Iterable[Fold[Any]] | None = None,
    reactors: Iterable[Reactor] | None = None,
) -> list[TopicSpec]:
    """Every topic that is needed: the declared ones, those beside what folds read, reactors' ledgers, ids.

    `of` are the folds and `reactors` the reactors; the product's and the user's where none are given.
    """
    common = {
        # The broker's time is the one clock that all records share; event time is in ce_time.
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(settings.max_record_bytes + 64 * 1024),
    }
    counts = {"raw": settings.raw_partitions, "control": 1}
    specs = [
        TopicSpec(t.name, counts.get(t.kind, settings.partitions), common | _KEPT | t.config)
        for t in catalog.topics().values()
    ]
    read: dict[str, bool] = {}
    """Topics that folds read, and whether one of these keeps state."""
    for fold in folds() if of is None else of:
        read |= {t.name: read.get(t.name, False) or fold.state is not None for t in fold.topics}
    # A dead letter wraps a whole record, with its key and headers; so does an effect in its ledger.
    wrapping = {"max.message.bytes": str(settings.max_record_bytes + LETTER_BYTES)}
    for spec in specs:
        if spec.name == topics.DEAD_LETTERS.name:
            spec.config.update(wrapping)
        topic = catalog.topics()[spec.name]
        if topic.kind == "control":
            spec.config.update(_COMPACTED | topic.config)
    by_name = {s.name: s for s in specs}
    for name, stateful in sorted(read.items()):
        partitions = by_name[name].partitions
        specs.append(TopicSpec(topics.versions(name), partitions, common | _KEPT))
        if stateful:
            specs.append(TopicSpec(topics.changelog(name), partitions, common | _COMPACTED))
            specs.append(TopicSpec(topics.ticks(name), partitions, common | _KEPT))
    for reactor in usable_reactors() if reactors is None else reactors:
        partitions = max(by_name[topic.name].partitions for topic in reactor.topics)
        specs.append(TopicSpec(topics.ledger(reactor.name), partitions, common | _COMPACTED | wrapping))
    specs.append(TopicSpec(topics.SCHEMA_IDS, 1, common | _COMPACTED))
    return specs


@asynccontextmanager
async def admin_client(settings: Settings, deadline_s: float = COMMAND_S) -> Any:
    """A started admin client. Raises ConfigurationError, BrokerUnavailable as `streams.kafka.connect` does."""
    client = AIOKafkaAdminClient(**client_options(settings))
    await connect(settings, client, deadline_s)
    try:
        yield client
    finally:
        await client.close()


async def ensure_topics(settings: Settings, specs: Iterable[TopicSpec] | None = None) -> list[str]:
    """Create what is missing and refuse what differs; returns the names that were created.

    Raises ConfigurationError where a topic has another partition count than declared.
    """
    wanted = list(declared(settings) if specs is None else specs)
    async with admin_client(settings) as client:
        present = await existing(client, settings, wanted)
        _refuse_other_counts(wanted, present)
        missing = [s for s in wanted if s.name not in present]
        if missing:
            await _create(client, settings, missing)
            await patiently(
                settings, "waiting for new topics", lambda: _all_visible(client, settings, wanted), DEADLINE_S
            )
    return [s.name for s in missing]


async def _create(client: Any, settings: Settings, specs: list[TopicSpec]) -> None:
    copies = await replication(client, settings)
    new = [
        NewTopic(settings.named(s.name), s.partitions, copies, topic_configs=s.config | kept_by(copies))
        for s in specs
    ]
    response = await patiently(
        settings, "creating topics", lambda: client.create_topics(new, timeout_ms=_ASK_MS), DEADLINE_S
    )
    for topic, code, *message in response.topic_errors:
        if code and for_code(code) is not TopicAlreadyExistsError:
            raise ConfigurationError(
                f"topic {topic} could not be created: {message[0] if message else for_code(code).__name__}",
                hint="see docs/cluster.md for rights and HEADWATER_REPLICATION, and the broker's log",
            )


async def replication(client: Any, settings: Settings) -> int:
    """Copies of each topic: as set; else three, or as many as there are brokers."""
    if settings.replication is not None:
        return settings.replication
    cluster = await patiently(settings, "counting brokers", client.describe_cluster, DEADLINE_S)
    return min(3, len(cluster["brokers"]))


def kept_by(copies: int) -> dict[str, str]:
    """How many copies have to have a record before it is acknowledged: of three, one may be away."""
    return {"min.insync.replicas": str((copies + 1) // 2)}


async def require_topics(settings: Settings, specs: list[TopicSpec], deadline_s: float = COMMAND_S) -> None:
    """Raise ConfigurationError unless all of them exist, with the declared partition counts."""
    async with admin_client(settings, deadline_s) as client:
        present = await existing(client, settings, specs)
    _refuse_other_counts(specs, present)
    missing = [s.name for s in specs if s.name not in present]
    if missing:
        raise ConfigurationError(
            f"topics are missing: {', '.join(missing)}",
            hint=missing_hint(settings),
        )


def missing_hint(settings: Settings) -> str:
    """What to do where topics are not seen: to whoever may not describe one, Kafka does not show it."""
    rights = "; or give HEADWATER_KAFKA_USERNAME the rights of docs/cluster.md to see them"
    elsewhere = f"; or is {settings.namespace} not the HEADWATER_NAMESPACE that is meant?"
    return (
        "run `headwater topics create`"
        + (elsewhere if settings.namespace else "")
        + (rights if settings.kafka_username else "")
    )


async def existing(client: Any, settings: Settings, wanted: list[TopicSpec]) -> dict[str, int]:
    """Partition count of each wanted topic that exists."""
    return {
        name: len(topic["partitions"]) for name, topic in (await _described(client, settings, wanted)).items()
    }


async def _described(client: Any, settings: Settings, wanted: list[TopicSpec]) -> dict[str, dict[str, Any]]:
    """What Kafka says of each wanted topic that exists."""
    names = {settings.named(s.name): s.name for s in wanted}
    # All of them: a cluster that makes topics by itself would make one that is asked for by name.
    described = await patiently(settings, "listing topics", client.describe_topics, DEADLINE_S)
    return {names[d["topic"]]: d for d in described if d["topic"] in names and not d["error_code"]}


async def differences(settings: Settings) -> list[str]:
    """What is missing or other than declared, one sentence each; empty when all is well."""
    wanted = declared(settings)
    found = []
    async with admin_client(settings) as client:
        present = await _described(client, settings, wanted)
        copies = await replication(client, settings)
        kept: dict[str, int] = {}
        for spec in wanted:
            if spec.name not in present:
                found.append(f"topic {spec.name} is missing: {missing_hint(settings)}")
                continue
            partitions = present[spec.name]["partitions"]
            if len(partitions) != spec.partitions:
                found.append(
                    f"topic {spec.name} has {len(partitions)} partitions, declared are {spec.partitions}: "
                    "set HEADWATER_PARTITIONS / HEADWATER_RAW_PARTITIONS to what is there"
                )
            fewest = kept[spec.name] = min(len(p["replicas"]) for p in partitions)
            if fewest < copies:
                found.append(
                    f"topic {spec.name} is kept by {fewest} brokers, not by {copies}: "
                    "kafka-reassign-partitions, or set HEADWATER_REPLICATION to what is meant"
                )
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, settings.named(s.name))
            for s in wanted
            if s.name in present
        ]
        specs = {settings.named(s.name): s for s in wanted}
        responses = (
            await patiently(
                settings, "reading configurations", lambda: client.describe_configs(resources), DEADLINE_S
            )
            if resources
            else []
        )
        for response in responses:
            for _, _, _, name, entries in response.resources:
                actual = {e[0]: e[1] for e in entries}
                found += [
                    f"topic {specs[name].name} has {k}={actual.get(k)}, declared is {v}: "
                    f"kafka-configs --alter --topic {name} --add-config {k}={v}"
                    for k, v in (specs[name].config | kept_by(kept[specs[name].name])).items()
                    if actual.get(k) != v
                ]
    return found


def _refuse_other_counts(wanted: list[TopicSpec], present: dict[str, int]) -> None:
    for spec in wanted:
        if present.get(spec.name, spec.partitions) != spec.partitions:
            raise ConfigurationError(
                f"topic {spec.name} has {present[spec.name]} partitions, declared are {spec.partitions}: "
                "keys would move to other partitions, away from their state",
                hint="set HEADWATER_PARTITIONS / HEADWATER_RAW_PARTITIONS back to what is there",
            )


async def _all_visible(client: Any, settings: Settings, wanted: list[TopicSpec]) -> None:
    """Metadata of a new topic takes a moment to reach every broker."""
    from aiokafka.errors import UnknownTopicOrPartitionError  # noqa: PLC0415

    if len(await existing(client, settings, wanted)) < len(wanted):
        raise UnknownTopicOrPartitionError
