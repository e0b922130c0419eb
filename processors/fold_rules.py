"""What a fold has to be like before it may run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from processors.fold import Fold
from schemas import catalog
from schemas import topics as t
from schemas.errors import InvalidEvent
from schemas.events import Event
from schemas.topics import Topic, topic_of

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MACHINERY = {t.DEAD_LETTERS.name, t.EFFECTS.name}


def fold_rules(value: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with a fold, and what to do."""
    if not isinstance(value, Fold):
        yield f"{value!r} is no fold", "let the entry point name a class derived from processors.fold.Fold"
        return
    missing = [name for name in ("name", "topics", "accepts") if not hasattr(value, name)]
    if missing:
        yield f"it does not say its {', '.join(missing)}", "see processors/fold.py for what a fold declares"
        return
    if not NAME.fullmatch(str(value.name)):
        yield f"{value.name!r} is no name for a fold", "small letters, digits, '.', '_' and '-', 64 at most"
    if type(value).on_event is Fold.on_event:
        yield f"fold {value.name} has no on_event", "say there what an event leads to"
    yield from version_rules(value)
    misread = list(read_rules("fold", value.name, value.topics, value.accepts))
    yield from misread
    yield from written_rules("fold", value.name, value.emits)
    if not misread:
        yield from state_rules(value)


def version_rules(fold: Fold[Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with a fold's version, or with what it says of others."""
    if not (isinstance(fold.version, int) and fold.version >= 1):
        yield f"fold {fold.name} is version {fold.version!r}", "versions are whole numbers from 1 on"
    if not (isinstance(fold.migrates, tuple) and all(isinstance(version, int) for version in fold.migrates)):
        yield (
            f"fold {fold.name} migrates {fold.migrates!r}",
            "let it be a tuple of versions: `migrates = (1,)`",
        )
    elif fold.migrates and type(fold).migrate is Fold.migrate:
        yield (
            f"fold {fold.name} migrates {fold.migrates!r} and has no `migrate`",
            "make there its state of theirs",
        )


def read_rules(kind: str, name: str, topics: Any, accepts: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with what something reads."""
    if not (isinstance(topics, tuple) and topics and all(isinstance(topic, Topic) for topic in topics)):
        yield f"{kind} {name} reads {topics!r}", "let `topics` be a tuple of topics: `topics = (SIGNALS,)`"
        return
    for topic in topics:
        if catalog.topics().get(topic.name) != topic:
            yield f"{kind} {name} reads topic {topic.name}, which nobody declares", t.UNDECLARED
    events = {event for topic in topics for event in topic.events}
    if not (isinstance(accepts, tuple) and accepts):
        yield (
            f"{kind} {name} accepts {accepts!r}",
            "let `accepts` be a tuple of event types: `accepts = (Signal,)`",
        )
        return
    for event in accepts:
        if event not in events:
            yield (
                f"{kind} {name} accepts {_named(event)}, which is in none of its topics: "
                + ", ".join(topic.name for topic in topics),
                f"add {_topic_name(event)} to its `topics`, or take it out of `accepts`",
            )


def written_rules(kind: str, name: str, emits: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with what something writes."""
    if not isinstance(emits, tuple):
        yield (
            f"{kind} {name} emits {emits!r}",
            "let `emits` be a tuple of event types: `emits = (AnomalyDetected,)`",
        )
        return
    for event in emits:
        if not (isinstance(event, type) and issubclass(event, Event)):
            yield (
                f"{kind} {name} emits {_named(event)}, which is no event",
                "derive it from schemas.events.Event",
            )
            continue
        try:
            topic = topic_of(event)
        except InvalidEvent as error:
            yield f"{kind} {name} emits {event.__name__}, which belongs to no topic", error.hint
            continue
        if topic.kind in ("control", "inbox") or topic.name in _MACHINERY:
            yield (
                f"{kind} {name} emits {event.__name__}: topic {topic.name} is written by Headwater alone",
                "emit a type of your own, or another of ours, such as AnomalyDetected",
            )


def state_rules(fold: Fold[Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with what a fold keeps, or with where it reads what it keeps."""
    state = fold.state
    if state is None:
        return
    if not (isinstance(state, type) and issubclass(state, msgspec.Struct)):
        yield (
            f"fold {fold.name} keeps {_named(state)} as state, which cannot be saved",
            "derive its class from msgspec.Struct, with values of MessagePack in it",
        )
    if type(fold).initial is Fold.initial:
        yield (
            f"fold {fold.name} keeps state and has no `initial`",
            "give there the state of a key without events",
        )
    for topic in fold.topics:
        if topic.kind == "raw":
            yield (
                (
                    f"fold {fold.name} keeps state and reads the raw topic {topic.name}, whose keys are its "
                    "producers' own"
                ),
                "read a keyed topic, such as signals; a fold without state can write one of your own",
            )


def _named(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else repr(kind)


def _topic_name(event: Any) -> str:
    try:
        return topic_of(event).name if isinstance(event, type) and issubclass(event, Event) else "its topic"
    except InvalidEvent:
        return "its topic"
