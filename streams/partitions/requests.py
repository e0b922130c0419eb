"""Requests of Kafka's second transaction protocol (KIP-890), which aiokafka lacks.

Schemas as in Kafka's message definitions: InitProducerId 4, Produce 12, TxnOffsetCommit 5, EndTxn 5,
and of ApiVersions 3 what tells whether a cluster speaks the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.protocol.api import Request, RequestStruct, Response, ResponseHeader_v0
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)
_ALL = -1
"""Acknowledgements: of all replicas in sync."""
_FINALIZED_FEATURES = 2
"""Tag in the answer to ApiVersions."""
_FEATURES = CompactArray(("name", _TEXT), ("max", Int16), ("min", Int16), _TAGS)


class _Versions(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 18
    API_VERSION = 3
    SCHEMA = Schema(
        ("error_code", Int16),
        ("api_keys", CompactArray(("api_key", Int16), ("min", Int16), ("max", Int16), _TAGS)),
        ("throttle_time_ms", Int32),
        _TAGS,
    )


class _AskVersions(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 18
    API_VERSION = 3
    RESPONSE_TYPE = _Versions
    SCHEMA = Schema(("client_software_name", _TEXT), ("client_software_version", _TEXT), _TAGS)

    def parse_response_header(self, read_buffer: BytesIO) -> ResponseHeader_v0:
        """The one answer whose header is of the first version: a client may not know the later ones yet."""
        return ResponseHeader_v0.decode(read_buffer)


class _ProducerId(Response):  # type: ignore[misc]
    API_KEY = 22
    API_VERSION = 4
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        _TAGS,
    )


class _InitProducerId(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 22
    API_VERSION = 4
    RESPONSE_TYPE = _ProducerId
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        _TAGS,
    )


class _Produced(Response):  # type: ignore[misc]
    API_KEY = 0
    API_VERSION = 12
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("index", Int32),
                        ("error_code", Int16),
                        ("base_offset", Int64),
                        ("log_append_time_ms", Int64),
                        ("log_start_offset", Int64),
                        (
                            "record_errors",
                            CompactArray(("batch_index", Int32), ("message", _TEXT), _TAGS),
                        ),
                        ("error_message", _TEXT),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("throttle_time_ms", Int32),
        _TAGS,
    )


class _Produce(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 0
    API_VERSION = 12
    RESPONSE_TYPE = _Produced
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("acks", Int16),
        ("timeout_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                ("partitions", CompactArray(("index", Int32), ("records", CompactBytes), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _OffsetsCommitted(Response):  # type: ignore[misc]
    API_KEY = 28
    API_VERSION = 5
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                ("partitions", CompactArray(("index", Int32), ("error_code", Int16), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _CommitOffsets(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 28
    API_VERSION = 5
    RESPONSE_TYPE = _OffsetsCommitted
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("group_id", _TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _TEXT),
        ("group_instance_id", _TEXT),
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("index", Int32),
                        ("committed_offset", Int64),
                        ("committed_leader_epoch", Int32),
                        ("metadata", _TEXT),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _Ended(Response):  # type: ignore[misc]
    API_KEY = 26
    API_VERSION = 5
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        _TAGS,
    )


class _End(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 26
    API_VERSION = 5
    RESPONSE_TYPE = _Ended
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("committed", Boolean),
        _TAGS,
    )


def _request(struct: type[RequestStruct]) -> Callable[..., Any]:
    class Built(Request[struct]):  # type: ignore[misc]
        API_KEY = struct.API_KEY

        def __init__(self, *values: object) -> None:
            self._values = values

        def build(self, request_struct_class: type[RequestStruct]) -> RequestStruct:
            return request_struct_class(*self._values, {})

    return Built


_ask_versions = _request(_AskVersions)
_init_producer_id = _request(_InitProducerId)
_produce = _request(_Produce)
_commit_offsets = _request(_CommitOffsets)
_end = _request(_End)


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
