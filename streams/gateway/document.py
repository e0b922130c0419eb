"""The part of the OpenAPI document that FastAPI cannot know: which data goes with which event type."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from schemas.catalog import event_types
from streams.gateway.items import Item, raw_types

POSTED = "PostedEvent"
_PREFIX = "#/components/schemas/"
_TEXT = {"type": "string"}
RATE_LIMIT: dict[str, Any] = {
    "RateLimit-Policy": {
        "description": "The key's and the project's limits: `\"key-events\";q=10000;w=5` is 10,000 in 5 s.",
        "schema": _TEXT,
    },
    "RateLimit": {"description": 'What is left of each: `"key-events";r=9990;t=5`.', "schema": _TEXT},
}
"""Headers of answers to callers who have a limit (draft-ietf-httpapi-ratelimit-headers)."""


def reference(name: str) -> dict[str, str]:
    """A reference to a component."""
    return {"$ref": f"{_PREFIX}{name}"}


def describe_events(app: FastAPI) -> None:
    """Make `app.openapi()` name every event type that may be posted, with its fields."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document["components"]["schemas"] |= _components()
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _components() -> dict[str, Any]:
    item = Item.model_json_schema()
    found: dict[str, Any] = {
        POSTED: {
            "description": item["description"],
            "oneOf": [reference(_name(t)) for t in raw_types()],
            "discriminator": {
                "propertyName": "type",
                "mapping": {t: f"{_PREFIX}{_name(t)}" for t in raw_types()},
            },
        }
    }
    for name in raw_types():
        data = event_types()[name].model_json_schema()
        found[name] = data
        told = {"type": {"type": "string", "const": name}, "data": reference(name)}
        found[_name(name)] = {
            **item,
            "title": _name(name),
            "description": data["description"],
            "properties": item["properties"] | told,
        }
    return found


def _name(event_type: str) -> str:
    return f"Posted{event_type}"
