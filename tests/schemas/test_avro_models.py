"""Avro schemas made of the models, and which changes of them are compatible."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import avro.schema
import fastavro
import pytest
from pydantic import Field

from schemas import events as e
from schemas.avro_models import avro_schema, canonical, check_backward, same_bytes
from schemas.errors import SchemaIncompatible


class Thing(e.Event):
    """A model to change."""

    name: str
    count: int
    kind: Literal["a", "b"] = "a"
    note: Annotated[str | None, Field(description="A note.")] = None


def test_each_kind_of_field() -> None:
    """Types, defaults and descriptions become Avro's; a literal is a string, so that one may be added."""
    assert avro_schema(Thing) == {
        "type": "record",
        "name": "Thing",
        "namespace": "headwater",
        "doc": "A model to change.",
        "fields": [
            {"name": "name", "type": "string"},
            {"name": "count", "type": "long"},
            {"name": "kind", "type": "string", "default": "a"},
            {"name": "note", "type": ["null", "string"], "doc": "A note.", "default": None},
        ],
    }


@pytest.mark.parametrize("model", e.EVENT_TYPES, ids=lambda m: m.__name__)
def test_other_avro_libraries_take_them(model: type[e.Event]) -> None:
    """Every model's schema is Avro to Apache's own library and to fastavro, and its text is stable."""
    definition = avro_schema(model)
    avro.schema.parse(json.dumps(definition))
    fastavro.parse_schema(json.loads(canonical(definition)))
    assert canonical(json.loads(canonical(definition))) == canonical(definition)


@pytest.mark.parametrize("model", e.EVENT_TYPES, ids=lambda m: m.__name__)
def test_every_event_says_what_it_is(model: type[e.Event]) -> None:
    """Every event type has a docstring of its own, and is frozen and closed."""
    assert model.__doc__
    assert model.__doc__ != e.Event.__doc__
    assert model.model_config["frozen"]
    assert model.model_config["extra"] == "forbid"


def changed(**fields: Any) -> dict[str, Any]:
    """Thing's schema with fields replaced, added (a dict), or taken away (None)."""
    definition = avro_schema(Thing)
    by_name = {f["name"]: f for f in definition["fields"]} | fields
    return definition | {"fields": [f for f in by_name.values() if f is not None]}


@pytest.mark.parametrize(
    "new",
    [
        changed(),
        changed(more={"name": "more", "type": ["null", "long"], "default": None}),
        changed(more={"name": "more", "type": "string", "default": ""}),
        changed(note=None),
        changed(count={"name": "count", "type": "double"}),
        changed(count={"name": "count", "type": ["null", "long"], "default": None}),
    ],
    ids=[
        "nothing",
        "optional field",
        "field with a default",
        "field removed",
        "long to double",
        "made optional",
    ],
)
def test_compatible_changes(new: dict[str, Any]) -> None:
    """These read what the earlier version wrote."""
    check_backward("Thing", new, [avro_schema(Thing)])


@pytest.mark.parametrize(
    "new",
    [
        changed(more={"name": "more", "type": "long"}),
        changed(count={"name": "count", "type": "string"}),
        changed(count=None, amount={"name": "amount", "type": "long"}),
        changed(note={"name": "note", "type": "string", "default": ""}),
        changed() | {"name": "Other"},
    ],
    ids=["required field", "other type", "field renamed", "made required", "record renamed"],
)
def test_incompatible_changes(new: dict[str, Any]) -> None:
    """These could not read what the earlier version wrote, and the error says which version."""
    with pytest.raises(SchemaIncompatible, match="Thing cannot read its version 2"):
        check_backward("Thing", new, [new, avro_schema(Thing)])


def test_what_has_no_avro_type() -> None:
    """A field that Avro cannot say is refused where the schema is made."""

    class Odd(e.Event):
        """Has a set."""

        names: set[str]

    class Optional(e.Event):
        """May be null, but is not by default."""

        name: str | None = "x"

    with pytest.raises(TypeError, match="no Avro type for"):
        avro_schema(Odd)
    with pytest.raises(TypeError, match="field name: an optional field's default has to be None"):
        avro_schema(Optional)


def test_words_do_not_change_the_bytes() -> None:
    """Documentation, defaults and the order of attributes aside two schemas are the same; fields are not."""
    one = avro_schema(e.AgentRetired)
    bare = {"fields": [{"type": f["type"], "name": f["name"]} for f in one["fields"]]}
    bare |= {k: one[k] for k in ("name", "namespace", "type")}
    assert same_bytes(one, bare)
    assert not same_bytes(one, one | {"fields": one["fields"][:1]})
    assert not same_bytes(one, {"type": "nonsense"})
