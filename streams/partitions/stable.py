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
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

_NONE = -1


class _Answer(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition_index", Int32),
                        ("committed_offset", Int64),
                        ("committed_leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _Question(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 9
    API_VERSION = 7
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("group_id", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("partition_indexes", CompactArray(Int32)),
                ("tags", TaggedFields),
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class _FetchStable(Request[_Question]):  # type: ignore[misc]
    API_KEY = 9

    def __init__(self, group: str, tp: TopicPartition) -> None:
        self._group = group
        self._tp = tp

    def build(self, request_struct_class: type[_Question]) -> _Question:
        return request_struct_class(self._group, [(self._tp.topic, [self._tp.partition], {})], True, {})


async def stable_position(client: AIOKafkaClient, group: str, tp: TopicPartition) -> int | None:
    """The group's next offset, None where it has none. Raises KafkaError, mostly to be asked again."""
    node = await client.coordinator_lookup(CoordinationType.GROUP, group)
    answer = await client.send(node, _FetchStable(group, tp), group=ConnectionGroup.COORDINATION)
    code, offset = answer.error_code, _NONE
    if not code:
        ((_, ((_, offset, _, _, code, _),), _),) = answer.topics
    if code:
        raise for_code(code)(f"error {code}")
    return None if offset == _NONE else int(offset)
