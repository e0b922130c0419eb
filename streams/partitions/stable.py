"""Kafka's request OffsetFetch with `require_stable` (KIP-447), which aiokafka lacks.

Without it a coordinator answers from what it knows to be replicated. One that has just taken over from a
broker that died does not know how far that is: it may answer with a position that was committed long
before, or with none, and everything after it would be folded and written a second time. With it the
answer waits until the coordinator knows.
"""

from __future__ import annotations

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import for_code
from aiokafka.protocol.types import Boolean, CompactArray, Int16, Int32, Int64

from streams.protocol import TEXT, by_topic, request, several

_NONE = -1
_fetch_stable = request(
    9,
    7,
    [
        ("group_id", TEXT),
        several("topics", ("name", TEXT), ("partition_indexes", CompactArray(Int32))),
        ("require_stable", Boolean),
    ],
    [
        ("throttle_time_ms", Int32),
        by_topic(
            ("committed_offset", Int64),
            ("committed_leader_epoch", Int32),
            ("metadata", TEXT),
            ("error_code", Int16),
        ),
        ("error_code", Int16),
    ],
)


async def stable_position(client: AIOKafkaClient, group: str, tp: TopicPartition) -> int | None:
    """The group's next offset, None where it has none. Raises KafkaError, mostly to be asked again."""
    node = await client.coordinator_lookup(CoordinationType.GROUP, group)
    question = _fetch_stable(group, [(tp.topic, [tp.partition], {})], True)
    answer = await client.send(node, question, group=ConnectionGroup.COORDINATION)
    code, offset = answer.error_code, _NONE
    if not code:
        ((_, ((_, offset, _, _, code, _),), _),) = answer.topics
    if code:
        raise for_code(code)(f"error {code}")
    return None if offset == _NONE else int(offset)
