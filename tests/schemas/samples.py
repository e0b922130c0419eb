"""Random valid events of every type, from the models' own constraints."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from schemas.events import Event

_TEXT = st.characters(exclude_categories=["Cs"])


def _values(annotation: Any, bounds: dict[str, Any]) -> st.SearchStrategy[Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _values(args[0], bounds | _bounds(args[1:]))
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, types.UnionType):
        return st.one_of(*(st.none() if a is type(None) else _values(a, bounds) for a in args))
    if origin is list:
        return st.lists(_values(args[0], {}), max_size=3)
    if origin is dict:
        return st.dictionaries(_values(args[0], {}), _values(args[1], {}), max_size=3)
    simple: dict[type, st.SearchStrategy[Any]] = {
        str: st.text(
            _TEXT, min_size=bounds.get("min_length", 0), max_size=min(20, bounds.get("max_length", 20))
        ),
        int: st.integers(bounds.get("ge", -(2**63)), bounds.get("le", 2**63 - 1)),
        float: st.floats(bounds.get("ge"), bounds.get("le"), allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        bytes: st.binary(max_size=20),
    }
    return simple[annotation]


def _bounds(metadata: Any) -> dict[str, Any]:
    """What FieldInfo and annotated_types say of length and range."""
    found: dict[str, Any] = {}
    for item in metadata:
        for part in item.metadata if isinstance(item, FieldInfo) else [item]:
            found |= {
                k: v
                for k in ("min_length", "max_length", "ge", "le")
                if (v := getattr(part, k, None)) is not None
            }
    return found


def events_of(model: type[Event]) -> st.SearchStrategy[Event]:
    """Valid events of a type."""
    fields = {name: _values(info.annotation, _bounds([info])) for name, info in model.model_fields.items()}
    return st.fixed_dictionaries(fields).map(model.model_validate)
