"""Requests of Kafka's protocol that aiokafka lacks, each said once, as its question and its answer.

Schemas are those of Kafka's message definitions, in versions with tagged fields.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response, ResponseHeader_v0, ResponseHeader_v1
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

Field = tuple[str, Any]
TEXT = CompactString("utf-8")
TAGS: Field = ("tags", TaggedFields)
ERROR: list[Field] = [("throttle_time_ms", Int32), ("error_code", Int16)]
PRODUCER: list[Field] = [("producer_id", Int64), ("producer_epoch", Int16)]


def several(name: str, *fields: Field) -> Field:
    """A list of structures."""
    return name, CompactArray(*fields, TAGS)


def by_topic(*fields: Field) -> Field:
    """A list of topics, each with a list of partitions, whose number is their first field."""
    return several("topics", ("name", TEXT), several("partitions", ("index", Int32), *fields))


def request(
    key: int, version: int, question: list[Field], answer: list[Field], *, old_header: bool = False
) -> Callable[..., Any]:
    """What makes a request of its question's values, for aiokafka's `client.send`.

    `old_header`: the answer's header has no tags.
    """

    class Answer(Response):  # type: ignore[misc]  # aiokafka ships no types
        API_KEY = key
        API_VERSION = version
        SCHEMA = Schema(*answer, TAGS)

    class Question(RequestStruct):  # type: ignore[misc]
        FLEXIBLE_VERSION = True
        API_KEY = key
        API_VERSION = version
        RESPONSE_TYPE = Answer
        SCHEMA = Schema(*question, TAGS)

        def parse_response_header(
            self, read_buffer: BytesIO | bytes
        ) -> ResponseHeader_v0 | ResponseHeader_v1:
            header = ResponseHeader_v0 if old_header else ResponseHeader_v1
            return header.decode(read_buffer)

    class Built(Request[Question]):  # type: ignore[misc]
        API_KEY = key

        def __init__(self, *values: object) -> None:
            self._values = values

        def build(self, request_struct_class: type[Question]) -> Question:
            return request_struct_class(*self._values, {})

    return Built
