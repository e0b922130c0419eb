"""The declared topics: every event has its place and its key."""

from __future__ import annotations

import re

import pytest

from schemas import events as e
from schemas import topics
from schemas.errors import InvalidEvent


def test_every_event_has_one_topic() -> None:
    """Each event type belongs to one topic; only what is kept beside each topic that folds read belongs to none."""
    declared = [event for topic in topics.TOPICS for event in topic.events]
    assert len(declared) == len(set(declared))
    assert set(e.EVENT_TYPES) - set(declared) == {e.Tick, e.FoldReady, e.FoldSwitched}
    with pytest.raises(InvalidEvent, match="Tick belongs to no topic"):
        topics.topic_of(e.Tick)


def test_keys_are_required_fields() -> None:
    """Every event is keyed by a text field that cannot be missing or empty."""
    for topic in topics.TOPICS:
        for event, field in topic.events.items():
            info = event.model_fields[field]
            assert info.is_required(), f"{event.__name__}.{field}"
            assert info.annotation is str, f"{event.__name__}.{field}"


def test_keys() -> None:
    """The key is the field's value, also for events of one topic that differ in type."""
    assert topics.key_of(e.MetricReported(component="tool:x", name="m", value=1)) == "tool:x"
    assert topics.key_of(e.AgentRetired(agent_id="sofia")) == "sofia"


def test_names_are_kafkas() -> None:
    """Names are legal in Kafka, differ also where Kafka's metrics confuse dots and underscores, and are unique."""
    beside = (topics.changelog, topics.ticks, topics.versions)
    names = [n for t in topics.TOPICS for n in (t.name, *(name(t.name) for name in beside))]
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]{1,200}", n) for n in names)
    assert len({n.replace(".", "_") for n in names}) == len(names)


def test_raw_topics_are_those_that_producers_write() -> None:
    """Raw topics hold what producers report; keyed and derived ones what folds conclude."""
    assert {t.kind for t in topics.TOPICS} == {"raw", "keyed", "derived", "control", "inbox"}
    assert topics.SIGNALS not in topics.RAW
    assert topics.topic_of(e.AnomalyDetected).kind == "derived"
    assert all(t.about for t in topics.TOPICS)
