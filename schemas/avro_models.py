"""Avro schemas generated from the event models, and the check that a change is BACKWARD compatible."""

from __future__ import annotations

import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import avro.compatibility
import avro.schema
from fastavro.schema import to_parsing_canonical_form
from pydantic.fields import FieldInfo

from schemas.errors import SchemaIncompatible
from schemas.events import NAMESPACE, Event

_PRIMITIVES: dict[type, str] = {str: "string", int: "long", float: "double", bool: "boolean", bytes: "bytes"}


def avro_schema(model: type[Event], namespace: str = NAMESPACE) -> dict[str, Any]:
    """The model's Avro record. Literals are strings, so that adding one stays compatible."""
    return {
        "type": "record",
        "name": model.__name__,
        "namespace": namespace,
        "doc": (model.__doc__ or "").strip(),
        "fields": [_field(name, info) for name, info in model.model_fields.items()],
    }


def _field(name: str, info: FieldInfo) -> dict[str, Any]:
    try:
        avro_type = _type(info.annotation)
    except TypeError as error:
        raise TypeError(f"field {name}: {error}") from None
    result: dict[str, Any] = {"name": name, "type": avro_type}
    if info.description:
        result["doc"] = info.description
    if not info.is_required():
        default = info.get_default(call_default_factory=True)
        if isinstance(avro_type, list) and default is not None:
            raise TypeError(f"field {name}: an optional field's default has to be None in Avro")
        result["default"] = default
    return result


def _type(annotation: Any) -> Any:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in _PRIMITIVES:
        return _PRIMITIVES[annotation]
    if origin is Annotated:
        return _type(args[0])
    if origin is Literal:
        return "string"
    if origin in (Union, types.UnionType) and type(None) in args:
        (inner,) = (a for a in args if a is not type(None))
        return ["null", _type(inner)]
    if origin is list:
        return {"type": "array", "items": _type(args[0])}
    if origin is dict and args[0] is str:
        return {"type": "map", "values": _type(args[1])}
    raise TypeError(
        f"no Avro type for {annotation!r}: use str, int, float, bool, bytes, lists, maps, or T | None"
    )


def canonical(schema: dict[str, Any]) -> str:
    """The schema as it is written to a file: one stable text."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def same_bytes(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both write the same bytes: equal but for documentation, defaults and order of attributes."""
    if one == other:
        return True
    try:
        return bool(to_parsing_canonical_form(one) == to_parsing_canonical_form(other))
    except Exception:  # noqa: BLE001 - fastavro raises many kinds on what is no schema
        return False


def check_backward(name: str, new: dict[str, Any], earlier: list[dict[str, Any]]) -> None:
    """Raise SchemaIncompatible unless `new` reads what each of `earlier` wrote."""
    reader = avro.schema.parse(json.dumps(new))
    for version, old in enumerate(earlier, 1):
        writer = avro.schema.parse(json.dumps(old))
        checker = avro.compatibility.ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
        result = checker.get_compatibility(reader, writer)
        if result.compatibility is not avro.compatibility.SchemaCompatibilityType.compatible:
            reasons = "; ".join(sorted(map(str, result.messages)))
            raise SchemaIncompatible(
                f"{name} cannot read its version {version}: {reasons}",
                hint="give new fields a default, and add a field instead of renaming or retyping one",
            )
