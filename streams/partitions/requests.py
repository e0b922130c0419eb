"""Requests of Kafka's second transaction protocol (KIP-890), which aiokafka lacks.

InitProducerId 4, Produce 12, TxnOffsetCommit 5, EndTxn 5, and of ApiVersions 3 what tells whether a
cluster speaks the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.protocol.types import Boolean, CompactArray, CompactBytes, Int16, Int32, Int64

from streams.protocol import ERROR, PRODUCER, TAGS, TEXT, by_topic, request, several

_ALL = -1
"""Acknowledgements: of all replicas in sync."""
_FINALIZED_FEATURES = 2
"""Tag in the answer to ApiVersions."""
_FEATURES = CompactArray(("name", TEXT), ("max", Int16), ("min", Int16), TAGS)

_ask_versions = request(
    18,
    3,
    [("client_software_name", TEXT), ("client_software_version", TEXT)],
    [
        ("error_code", Int16),
        several("api_keys", ("api_key", Int16), ("min", Int16), ("max", Int16)),
        ("throttle_time_ms", Int32),
    ],
    old_header=True,  # a client may not know the later ones yet
)
_init_producer_id = request(
    22,
    4,
    [("transactional_id", TEXT), ("transaction_timeout_ms", Int32), *PRODUCER],
    [*ERROR, *PRODUCER],
)
_produce = request(
    0,
    12,
    [
        ("transactional_id", TEXT),
        ("acks", Int16),
        ("timeout_ms", Int32),
        by_topic(("records", CompactBytes)),
    ],
    [
        by_topic(
            ("error_code", Int16),
            ("base_offset", Int64),
            ("log_append_time_ms", Int64),
            ("log_start_offset", Int64),
            several("record_errors", ("batch_index", Int32), ("message", TEXT)),
            ("error_message", TEXT),
        ),
        ("throttle_time_ms", Int32),
    ],
)
_commit_offsets = request(
    28,
    5,
    [
        ("transactional_id", TEXT),
        ("group_id", TEXT),
        *PRODUCER,
        ("generation_id", Int32),
        ("member_id", TEXT),
        ("group_instance_id", TEXT),
        by_topic(("committed_offset", Int64), ("committed_leader_epoch", Int32), ("metadata", TEXT)),
    ],
    [("throttle_time_ms", Int32), by_topic(("error_code", Int16))],
)
_end = request(26, 5, [("transactional_id", TEXT), *PRODUCER, ("committed", Boolean)], [*ERROR, *PRODUCER])


class Producer(NamedTuple):
    """Who writes: the id and epoch that the coordinator gave."""

    transactional_id: str
    id: int
    epoch: int


def ask_versions() -> Any:
    """What a broker speaks, and the cluster's features; see `level`."""
    return _ask_versions("headwater", version("headwater"))


def level(answer: Any, feature: str) -> int:
    """The finalized level of a feature in the answer to `ask_versions`; 0 where there is none."""
    finalized = answer.tags.get(_FINALIZED_FEATURES)
    features = _FEATURES.decode(BytesIO(finalized)) if finalized else ()
    return next((most for name, most, *_ in features if name == feature), 0)


def init_producer_id(transactional_id: str, timeout_ms: int) -> Any:
    """Fence whoever wrote under this id, abort what he left open, and be given an epoch."""
    return _init_producer_id(transactional_id, timeout_ms, -1, -1)


def produce(producer: Producer, batches: Mapping[TopicPartition, bytes], timeout_ms: int) -> Any:
    """Append a batch to each partition, which thereby becomes a part of the transaction."""
    topics: dict[str, list[tuple[int, bytes, dict[int, bytes]]]] = {}
    for tp, batch in batches.items():
        topics.setdefault(tp.topic, []).append((tp.partition, batch, {}))
    values: list[object] = [(topic, partitions, {}) for topic, partitions in topics.items()]
    return _produce(producer.transactional_id, _ALL, timeout_ms, values)


def commit_offset(producer: Producer, group: str, tp: TopicPartition, offset: int) -> Any:
    """Commit a group's position, and the group thereby becomes a part of the transaction."""
    place: list[object] = [(tp.topic, [(tp.partition, offset, -1, "", {})], {})]
    return _commit_offsets(producer.transactional_id, group, producer.id, producer.epoch, -1, "", None, place)


def end(producer: Producer) -> Any:
    """Commit the transaction; the answer has the epoch of the next one."""
    return _end(producer.transactional_id, producer.id, producer.epoch, True)
