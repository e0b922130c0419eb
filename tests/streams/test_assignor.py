"""Sharing out partitions: all of them, evenly topic by topic, with few moved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.partitions.assignor import Member, Place, share_out

TOPICS = {"agent.messages": range(2), "agent.runs": range(2), "signals": range(8), "faults": range(1)}
NAMES = ["a", "b", "c", "d", "e"]


def members(had: dict[str, list[Place]], generation: int = 1) -> dict[str, Member]:
    """Members that ask for every topic."""
    return {name: Member(TOPICS.keys(), set(places), generation) for name, places in had.items()}


def of_topic(places: list[Place], topic: str) -> int:
    """How many partitions of a topic."""
    return sum(t == topic for t, _ in places)


def check(given: dict[str, list[Place]]) -> None:
    """Each partition once, each topic even, and the sum of what is left over even, too."""
    everything = [place for places in given.values() for place in places]
    assert sorted(everything) == sorted((t, p) for t, partitions in TOPICS.items() for p in partitions)
    for topic in TOPICS:
        counts = [of_topic(places, topic) for places in given.values()]
        assert max(counts) - min(counts) <= 1, topic


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), min_size=1, max_size=12))
def test_members_come_and_go(changes: list[tuple[str, bool]]) -> None:
    """Whoever joins or leaves: all is shared out evenly, and nobody who stays gives up more than it has to."""
    had: dict[str, list[Place]] = {"a": []}
    for name, joins in changes:
        if joins:
            had.setdefault(name, [])
        elif len(had) > 1:
            had.pop(name, None)
        shared = share_out(TOPICS, members(had))
        check(shared)
        for topic, partitions in TOPICS.items():
            least = len(partitions) // len(shared)
            for member, places in shared.items():
                before = {p for t, p in had[member] if t == topic}
                kept = before & {p for t, p in places if t == topic}
                assert len(kept) >= min(len(before), least)
        had = shared
    assert share_out(TOPICS, members(had)) == had, "with no change, nothing moves"


def test_a_second_worker_gets_half_of_the_topic_that_counts() -> None:
    """The case in which the number of partitions alone was even, and all the work was one worker's."""
    alone = share_out(TOPICS, members({"a": []}))
    both = share_out(TOPICS, members(alone | {"b": []}))
    assert [of_topic(both[name], "signals") for name in "ab"] == [4, 4]


def test_of_two_that_had_a_partition_the_later_keeps_it() -> None:
    """A member that was away comes back with what it had long ago."""
    first = {"a": Member(["t"], {("t", 0), ("t", 1)}, 3), "b": Member(["t"], {("t", 0), ("t", 1)}, 7)}
    assert share_out({"t": range(2)}, first | {"c": Member([], set(), 9)}) == {
        "a": [("t", 1)], "b": [("t", 0)], "c": [],
    }  # fmt: skip


def test_a_topic_that_nobody_asks_for_is_nobodys() -> None:
    """Nor is one without partitions."""
    assert share_out({"t": range(3), "u": ()}, {"a": Member(["u"], set(), 1)}) == {"a": []}
