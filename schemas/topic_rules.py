"""What a package's topics have to be like, so that they go with ours and with those of others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import avro.schema

from schemas.avro_models import avro_schema
from schemas.events import EVENT_TYPES, Event
from schemas.topics import TOPICS, Topic

KINDS = ("raw", "keyed", "derived")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)+")
_LONGEST = 150
RESERVED = {topic.name.partition(".")[0] for topic in TOPICS} | {"headwater", "reactors"}
"""What no topic of a package may begin with."""
_ENDINGS = (".changelog", ".ticks", ".ledger")
_EVENT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def topic_rules(value: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with a topic of a package, and what to do."""
    if not isinstance(value, Topic):
        yield (
            f"{value!r} is no schemas.topics.Topic",
            "let the entry point name a Topic, or a tuple of them",
        )
        return
    name = value.name
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        yield (
            f"topic {name!r} has no name that Kafka and others can live with",
            f"call it <package>.<what>: small letters, digits, '.', '_' and '-', {_LONGEST} at most",
        )
    elif name.partition(".")[0] in RESERVED or name.endswith(_ENDINGS):
        yield (
            (
                f"topic {name}: names that begin with {name.partition('.')[0]}. or end in "
                f"{', '.join(_ENDINGS)} are Headwater's"
            ),
            "begin it with your package's name and a dot",
        )
    if value.kind not in KINDS:
        yield (
            f"topic {name} is {value.kind!r}: packages have {', '.join(KINDS)} topics",
            "raw: anybody writes it; keyed: folds write it for folds; derived: what folds found",
        )
    if not value.events:
        yield f"topic {name} holds no event types", "give it `events`: each type with the field that keys it"
    for event, field in value.events.items():
        yield from _event_rules(name, event, field)


def _event_rules(topic: str, event: Any, field: str) -> Iterator[tuple[str, str]]:
    if not (isinstance(event, type) and issubclass(event, Event)):
        yield f"topic {topic} holds {event!r}, which is no event", "derive it from schemas.events.Event"
        return
    name = event.__name__
    if event in EVENT_TYPES:
        yield (
            f"topic {topic} holds {name}, which is Headwater's and has a topic",
            "declare a type of your own",
        )
        return
    if not _EVENT_NAME.fullmatch(name):
        yield f"event type {name!r}: Avro has ASCII letters, digits and '_' in names", "rename it"
    info = event.model_fields.get(field)
    if info is None or info.annotation is not str or not info.is_required():
        yield (
            f"{name} is keyed by {field!r}, which is no field that always has text",
            "key it by a required field of type str (schemas.events.Name is one)",
        )
    try:
        avro.schema.parse(json.dumps(avro_schema(event)))
    except Exception as error:  # noqa: BLE001 - the parser raises many kinds on what is no schema
        yield f"{name} has no Avro schema: {error}", "change that field"
