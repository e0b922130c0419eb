"""Hop by hop: what a view waits for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pytest

from processors.fold import Fold
from projections.catalog import view_named, views
from projections.position import BadToken
from projections.store import Store
from projections.view import Place
from schemas import catalog, topics
from schemas import events as e
from schemas.errors import DeadlineExceeded
from streams.views.positions import Freshness, Routes
from tests.conftest import NewDatabase
from tests.projections.material import store_at


@pytest.mark.parametrize(
    ("topic", "view", "hops"),
    [
        ("agent.tool-calls", "events", set()),
        ("agent.tool-calls", "runs", set()),
        ("agent.tool-calls", "components", {"signals"}),
        ("agent.tool-calls", "anomalies", {"signals"}),
        ("agent.tool-calls", "dead_letters", {"signals", "headwater.dead-letters"}),
        ("signals", "components", set()),
        ("signals", "anomalies", {"anomalies"}),
        ("signals", "dead_letters", {"headwater.dead-letters"}),
        ("agent.lifecycle", "agents", {"signals"}),
        ("signals", "agents", set()),
        ("signals", "runs", {"anomalies"}),
        ("anomalies", "components", set()),
    ],
)
def test_hops_are_those_of_the_folds(topic: str, view: str, hops: set[str]) -> None:
    """A view waits for the topics that lead to what it reads, and for no others."""
    assert Routes().hops(topic, view_named(view)) == hops


class Fake:
    """Kafka's answers, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.log: dict[Place, int] = {}
        self.stuck: set[str] = set()

    async def pending(self, wanted: Mapping[Place, int]) -> Mapping[Place, int]:
        """Everything is handled, but in stuck topics."""
        self.asked.append(f"folds {sorted(wanted.items())}")
        return {place: offset for place, offset in wanted.items() if place[0] in self.stuck}

    async def ends(self, names: Iterable[str]) -> dict[Place, int]:
        """The ends of the log."""
        names = set(names)
        if not names <= set(catalog.topics()):
            raise BadToken("no such topic")
        return {place: end for place, end in self.log.items() if place[0] in names}


@pytest.fixture
def store(new_database: NewDatabase) -> Store:
    """A store of all views."""
    return store_at(new_database(), views())


@pytest.fixture
def kafka() -> Fake:
    """A log with something in each topic."""
    fake = Fake()
    fake.log = {(name, p): 10 * p + 1 for name in catalog.topics() for p in (0, 1)}
    return fake


async def test_a_view_of_derived_topics_waits_for_each_hop(store: Store, kafka: Fake) -> None:
    """Raw position → folds → ends of signals → folds → ends of anomalies → the view, in this order."""
    store.apply("anomalies", 1, [], {}, {("anomalies", 0): 1, ("anomalies", 1): 11})
    await Freshness(store, kafka)({"agent.runs": {0: 1}}, "anomalies", 5)
    assert kafka.asked == [
        "folds [(('agent.runs', 0), 1)]",
        "folds [(('signals', 0), 1), (('signals', 1), 11)]",
    ]


async def test_it_says_what_it_waited_for(store: Store, kafka: Fake) -> None:
    """A deadline that passes names the hop: folds that do not go on, or the view itself."""
    wait_for = Freshness(store, kafka)
    with pytest.raises(DeadlineExceeded, match=r"view runs to read agent\.runs"):
        await wait_for({"agent.runs": {0: 1}}, "runs", 0.05)
    kafka.stuck = {"signals"}
    with pytest.raises(DeadlineExceeded, match="folds to read signals"):
        await wait_for({"agent.runs": {0: 1}}, "anomalies", 0.05)


@pytest.mark.parametrize(
    "position",
    [{"nowhere": {0: 1}}, {"agent.runs": {5: 1}}, {"agent.runs": {0: 2}, "agent.messages": {0: 0}}],
)
async def test_a_place_that_does_not_exist_is_refused(
    store: Store, kafka: Fake, position: dict[str, dict[int, int]]
) -> None:
    """A token of another log, an unknown topic or partition is refused at once, not waited for."""
    with pytest.raises(BadToken):
        await Freshness(store, kafka)(position, "runs", 5)


async def test_nothing_to_wait_for_is_fresh(store: Store, kafka: Fake) -> None:
    """The beginning of the log, and topics that have nothing to do with the view, need no wait."""
    wait_for = Freshness(store, kafka)
    await wait_for({}, "runs", 0.5)
    await wait_for({"agent.runs": {0: 0}}, "anomalies", 0.5)
    await wait_for({"headwater.dead-letters": {0: 1}}, "runs", 0.5)


async def test_folds_in_a_circle_come_to_an_end(store: Store, kafka: Fake) -> None:
    """Where a fold writes what it reads, each topic is waited for once."""

    class Circle(Fold[None]):
        name: ClassVar[str] = "circle"
        topics: ClassVar[tuple[topics.Topic, ...]] = (topics.SIGNALS,)
        accepts: ClassVar[tuple[type[e.Event], ...]] = (e.Signal,)
        emits: ClassVar[tuple[type[e.Event], ...]] = (e.Signal, e.AnomalyDetected)

    circle: Any = Circle()
    store.apply("anomalies", 1, [], {}, {("anomalies", 0): 1, ("anomalies", 1): 11})
    await Freshness(store, kafka, Routes([circle]))({"signals": {0: 1}}, "anomalies", 5)
    assert len(kafka.asked) == 1
