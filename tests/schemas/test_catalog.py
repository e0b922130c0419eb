"""Event types and topics of packages: found beside ours, or refused with what to do."""

from __future__ import annotations

import pytest

from schemas import catalog, topics
from schemas import events as e
from schemas.errors import ConfigurationError, InvalidEvent
from schemas.extension import Fault, require_none
from tests.packages import EVENTS, POINTS, Packages, tickets


def fault() -> Fault:
    """The only fault of packages' topics."""
    (found,) = catalog.survey().faults
    return found


def test_without_packages_there_is_ours() -> None:
    """The catalog is what the product declares, under the same names."""
    assert list(catalog.topics().values()) == list(topics.TOPICS)
    assert list(catalog.event_types().values()) == list(e.EVENT_TYPES)
    assert catalog.raw() == topics.RAW
    assert catalog.subject_of(e.Signal) == "headwater.Signal"
    assert catalog.by_subject()["headwater.Tick"] is e.Tick
    assert catalog.survey().faults == ()


def test_a_package_adds_topics_and_event_types(packages: Packages) -> None:
    """They stand behind ours, are keyed as declared, and their subjects begin with the package's name."""
    tickets(packages)
    opened = catalog.event_types()["TicketOpened"]
    assert catalog.survey().faults == ()
    assert list(catalog.topics())[-2:] == ["acme.tickets", "acme.piles"]
    assert [topic.name for topic in catalog.raw()][-1] == "acme.tickets"
    assert catalog.subject_of(opened) == "acme.TicketOpened"
    assert topics.topic_of(opened).name == "acme.tickets"
    assert topics.key_of(opened.model_validate({"customer": "anna"})) == "anna"


def test_one_topic_needs_no_tuple(packages: Packages) -> None:
    """An entry point may name a topic itself."""
    packages.install("acme", "headwater.events.acme = acme.events:PILES", {"acme.events": EVENTS})
    assert list(catalog.topics())[-1] == "acme.piles"


def test_what_is_declared_nowhere_is_refused(packages: Packages) -> None:
    """An event class that no installed package lists has neither topic nor subject; the error says what to do."""
    packages.write("acme.events", EVENTS)
    import acme.events  # type: ignore[import-not-found]

    with pytest.raises(
        InvalidEvent, match=r"TicketOpened belongs to no topic .*headwater\.events.*pip install"
    ):
        topics.topic_of(acme.events.TicketOpened)
    with pytest.raises(InvalidEvent, match="TicketOpened is declared nowhere"):
        catalog.subject_of(acme.events.TicketOpened)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "import nothing_like_this\n",
            "cannot be imported: ModuleNotFoundError: No module named 'nothing_like",
        ),
        ("raise SystemExit(3)\n", "cannot be imported: SystemExit: 3"),
        ("TOPICS = 7\n", "7 is no schemas.topics.Topic"),
        ("TOPICS = Topic('tickets', 'raw', {TicketOpened: 'customer'}, '')\n", "has no name that Kafka"),
        ("TOPICS = Topic('agent.x', 'raw', {TicketOpened: 'customer'}, '')\n", "names that begin with agent"),
        ("TOPICS = Topic('acme.ticks', 'raw', {TicketOpened: 'customer'}, '')\n", "are Headwater's"),
        ("TOPICS = Topic('acme.x', 'control', {TicketOpened: 'customer'}, '')\n", "packages have raw, keyed"),
        ("TOPICS = Topic('acme.x', 'raw', {}, '')\n", "holds no event types"),
        ("TOPICS = Topic('acme.x', 'raw', {str: 'customer'}, '')\n", "which is no event"),
        ("TOPICS = Topic('acme.x', 'raw', {TicketOpened: 'text'}, '')\n", "no field that always has text"),
        ("TOPICS = Topic('acme.x', 'raw', {TicketOpened: 'nobody'}, '')\n", "no field that always has text"),
        (
            "class Odd(Event):\n    key: str\n    when: complex\nTOPICS = Topic('a.x', 'raw', {Odd: 'key'}, '')\n",
            "Odd has no Avro schema: field when: no Avro type for <class 'complex'>",
        ),
        (
            "from schemas.events import Signal\nTOPICS = Topic('acme.x', 'raw', {Signal: 'component'}, '')\n",
            "holds Signal, which is Headwater's",
        ),
        (
            "class Signal(Event):\n    key: str\nTOPICS = Topic('acme.x', 'raw', {Signal: 'key'}, '')\n",
            "event type Signal is Headwater's already",
        ),
        ("TOPICS = (TICKETS, TICKETS)\n", "topic acme.tickets is acme 2.1's already"),
    ],
)
def test_what_is_wrong_is_said(packages: Packages, code: str, says: str) -> None:
    """Which package, what, what to do; nothing of the entry point is taken, and ours goes on."""
    packages.install("acme", POINTS, {"acme.events": EVENTS + code}, version="2.1")
    assert list(catalog.topics().values()) == list(topics.TOPICS)
    found = catalog.survey().faults[0]
    assert found.package == "acme 2.1"
    assert found.says.startswith("acme.events:TOPICS")
    assert says in found.says
    assert found.do
    with pytest.raises(ConfigurationError, match=r"package acme 2\.1: acme\.events:TOPICS"):
        require_none(catalog.survey().faults)


def test_two_packages_with_one_name(packages: Packages) -> None:
    """The second by name is refused whole, whatever the order of installation; the first is named."""
    other = EVENTS.replace("acme.", "other.") + "TOPICS = (TICKETS, PILES)\n"
    packages.install("b-second", "headwater.events.x = other.events:TOPICS", {"other.events": other})
    tickets(packages)
    said = {f.says for f in catalog.survey().faults}
    assert {f.package for f in catalog.survey().faults} == {"b-second 1.0"}
    assert said == {
        "other.events:TOPICS: event type TicketOpened is acme-tickets 1.0's already",
        "other.events:TOPICS: event type TicketsPiledUp is acme-tickets 1.0's already",
    }
    assert "other.tickets" not in catalog.topics()


def test_names_that_kafka_confuses_are_one(packages: Packages) -> None:
    """Kafka's metrics take dots and underscores for the same: a_b.c and a.b_c are refused together."""
    code = (
        EVENTS + "TOPICS = (TICKETS, Topic('acme_tickets.x', 'derived', {TicketsPiledUp: 'customer'}, ''))\n"
    )
    packages.install("acme", POINTS, {"acme.events": code.replace('"acme.tickets"', '"acme.tickets_x"')})
    assert "topic acme_tickets.x is acme 1.0's already" in fault().says


def test_only_the_one_at_fault_is_left_out(packages: Packages) -> None:
    """A broken package takes nothing from a whole one, nor from us."""
    packages.install("broken", "headwater.events.x = broken.events:TOPICS", {"broken.events": "1 / 0\n"})
    tickets(packages)
    assert "acme.tickets" in catalog.topics()
    assert fault().package == "broken 1.0"
    assert "ZeroDivisionError" in fault().says
    assert fault().do == "mend it, or `pip uninstall broken`"
