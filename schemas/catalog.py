"""Every topic and event type: ours, then those that installed packages add (`headwater.events`).

An entry point names a Topic or a tuple of them, in the module beside which their schemas are locked.
Packages are looked for once, when somebody first asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from schemas import events as e
from schemas import topics as t
from schemas.errors import InvalidEvent
from schemas.extension import HEADWATER, Added, Fault, Survey, added, judged, twice
from schemas.topic_rules import topic_rules
from schemas.topics import Topic

GROUP = "headwater.events"


class _Known(NamedTuple):
    topics: dict[str, Topic]
    event_types: dict[str, type[e.Event]]
    by_subject: dict[str, type[e.Event]]
    subjects: dict[type[e.Event], str]
    survey: Survey[tuple[Topic, ...]]


def topics() -> Mapping[str, Topic]:
    """All topics by name."""
    return _known().topics


def raw() -> tuple[Topic, ...]:
    """The topics that anybody may write to."""
    return tuple(topic for topic in topics().values() if topic.kind == "raw")


def event_types() -> Mapping[str, type[e.Event]]:
    """All event types by name."""
    return _known().event_types


def by_subject() -> Mapping[str, type[e.Event]]:
    """All event types by the full names of their Avro records."""
    return _known().by_subject


def subject_of(event_type: type[e.Event]) -> str:
    """The full name of an event type's Avro record. Raises InvalidEvent for one that nobody declared."""
    try:
        return _known().subjects[event_type]
    except KeyError:
        raise InvalidEvent(f"{event_type.__name__} is declared nowhere", hint=t.UNDECLARED) from None


def survey() -> Survey[tuple[Topic, ...]]:
    """What packages add, a tuple of topics an entry point, and what is wrong with the rest."""
    return _known().survey


def namespace_of(module: str) -> str:
    """The Avro namespace of event types that a module declares: its package's name."""
    return module.partition(".")[0]


def as_topics(value: Any) -> tuple[Any, ...]:
    """What an entry point names, as a tuple."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


@cache
def _known() -> _Known:
    found: list[Added[tuple[Topic, ...]]] = []
    points = added(GROUP)
    faults = list(points.faults)
    known = _Known(
        {topic.name: topic for topic in t.TOPICS},
        {event.__name__: event for event in e.EVENT_TYPES},
        {f"{e.NAMESPACE}.{event.__name__}": event for event in e.EVENT_TYPES},
        {},
        Survey(),
    )
    owners = dict.fromkeys([*map(_kafkas, known.topics), *known.event_types], HEADWATER)
    for point in points.found:
        its = point._replace(value=as_topics(point.value))
        wrong = [f for topic in its.value for f in judged(point._replace(value=topic), (topic_rules,))]
        wrong = wrong or _taken(its, owners)
        faults += wrong
        if wrong:
            continue  # all of it, or nothing: half a package would be neither
        found.append(its)
        namespace = namespace_of(its.at)
        for topic in its.value:
            known.topics[topic.name] = topic
            owners[_kafkas(topic.name)] = its.package
            for event in topic.events:
                owners[event.__name__] = its.package
                known.event_types[event.__name__] = event
                known.by_subject[f"{namespace}.{event.__name__}"] = event
    known.subjects.update({event: subject for subject, event in known.by_subject.items()})
    return known._replace(survey=Survey(tuple(found), tuple(faults)))


def _taken(its: Added[tuple[Topic, ...]], owners: dict[str, str]) -> list[Fault]:
    """Names that somebody else, or the same package, has already."""
    faults, owners = [], dict(owners)
    for topic in its.value:
        names = {_kafkas(topic.name): f"topic {topic.name}"}
        names |= {event.__name__: f"event type {event.__name__}" for event in topic.events}
        for name, what in names.items():
            if name in owners:
                faults.append(twice(owners[name], its, what))
            owners[name] = its.package
    return faults


def _kafkas(topic: str) -> str:
    """Kafka's metrics take '.' and '_' for the same."""
    return topic.replace(".", "_")
