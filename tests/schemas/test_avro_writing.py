"""Records written by functions made of their schemas, beside fastavro's."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.avro_models import avro_schema
from schemas.avro_writing import writer
from schemas.events import EVENT_TYPES, Event
from tests.schemas.samples import events_of


class Everything(Event):
    """A field of each type that a model may have, nested in each other."""

    text: str
    number: int
    share: float
    so: bool
    data: bytes
    maybe: int | None
    texts: list[str]
    tables: dict[str, list[float | None]]
    nested: list[dict[str, bytes]] | None
    lists: list[list[int]]


def by_fastavro(schema: dict[str, Any], fields: dict[str, Any]) -> bytes:
    """The bytes as fastavro has them."""
    buffer = BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(dict(schema)), fields)
    return buffer.getvalue()


@pytest.mark.parametrize("model", [Everything, *EVENT_TYPES], ids=lambda m: m.__name__)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_bytes_are_fastavros(model: type[Event], data: st.DataObject) -> None:
    """Any valid event of any type is written as fastavro writes it, after the prefix."""
    fields, schema = data.draw(events_of(model)).__dict__, avro_schema(model)
    write = writer(schema, model.model_fields, b"prefix")
    assert write(fields) == b"prefix" + by_fastavro(schema, fields)
    assert write.__module__ != "functools", "it was left to fastavro"


@settings(deadline=None)
@given(number=st.integers(-(2**63), 2**63 - 1))
@example(number=-(2**63))
@example(number=2**63 - 1)
@example(number=1 << 14)
def test_whole_numbers(number: int) -> None:
    """Every 64-bit number is written as fastavro writes it, the remembered and the others, each time."""
    schema = {"type": "record", "name": "N", "fields": [{"name": "n", "type": "long"}]}
    write = writer(schema, {"n"}, b"")
    assert write({"n": number}) == write({"n": number}) == by_fastavro(schema, {"n": number})


def test_long_texts() -> None:
    """Lengths beyond those that are remembered count bytes, not characters."""
    schema = {"type": "record", "name": "T", "fields": [{"name": "t", "type": "string"}]}
    text = "ü" * 100_000
    assert writer(schema, {"t"}, b"")({"t": text}) == by_fastavro(schema, {"t": text})


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("text", 1, AttributeError),
        ("text", "\ud800", ValueError),
        ("number", 2**63, OverflowError),
        ("number", "1", TypeError),
        ("share", "1", struct.error),
        ("data", "text", TypeError),
        ("maybe", 0.5, TypeError),
        ("texts", [b"x"], AttributeError),
        ("tables", None, AttributeError),
    ],
)
def test_what_does_not_fit_raises(field: str, value: object, error: type[Exception]) -> None:
    """A value of another type than the schema says is not written."""
    fields: dict[str, Any] = {
        "text": "", "number": 0, "share": 0.0, "so": True, "data": b"", "maybe": None,
        "texts": [], "tables": {}, "nested": None, "lists": [],
    }  # fmt: skip
    write = writer(avro_schema(Everything), Everything.model_fields, b"")
    write(fields)
    with pytest.raises(error):
        write(fields | {field: value})


@pytest.mark.parametrize(
    "added",
    [
        {"name": "added", "type": "string", "default": "as ever"},
        {"name": "number", "type": {"type": "enum", "name": "E", "symbols": ["A"]}},
    ],
)
def test_other_schemas_are_left_to_fastavro(added: dict[str, Any]) -> None:
    """A default for what the model lacks, and types that models cannot have, are written all the same."""
    fields: list[Any] = [{"name": "text", "type": "string"}, added]
    schema = {"type": "record", "name": "Other", "fields": fields}
    given = {"text": "t", "number": "A"}
    assert writer(schema, given, b"p")(given) == b"p" + by_fastavro(schema, given)
