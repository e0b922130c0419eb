"""Who of a group gets which partitions: each topic shared out evenly for itself, and few of them moved.

aiokafka's sticky assignor balances the number of partitions over all topics. When a second worker
joins, it may give it all partitions of the one topic whose folds have state and do the work, and
leave the first with those that cost nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

Place = tuple[str, int]


class Member(NamedTuple):
    """What a member asks for, what it had, and in which generation of the group it had it."""

    topics: Collection[str]
    had: Collection[Place]
    generation: int


def share_out(topics: Mapping[str, Collection[int]], members: Mapping[str, Member]) -> dict[str, list[Place]]:
    """Every partition to one member that asks for its topic; within a topic, shares differ by one at most.

    Of each share a member keeps what it had. Who gets one more of a topic has the least so far.
    """
    given: dict[str, list[Place]] = {name: [] for name in members}
    for topic in sorted(topics):
        takers = sorted(name for name, member in members.items() if topic in member.topics)
        if not takers:
            continue
        had: dict[str, list[int]] = {}
        left = sorted(topics[topic])
        for name in sorted(takers, key=lambda name: (-members[name].generation, name)):
            had[name] = [p for p in left if (topic, p) in members[name].had]
            left = [p for p in left if p not in had[name]]  # two may say they had it: the later one did
        least, more = divmod(len(topics[topic]), len(takers))
        lucky = sorted(takers, key=lambda name: (len(given[name]), -len(had[name]), name))[:more]
        share = {name: least + (name in lucky) for name in takers}
        for name in takers:
            left += had[name][share[name] :]
        for name in takers:
            kept = had[name][: share[name]]
            missing = share[name] - len(kept)
            given[name] += [(topic, p) for p in kept + left[:missing]]
            left = left[missing:]
    return {name: sorted(places) for name, places in given.items()}


class EvenAssignor(StickyPartitionAssignor):  # type: ignore[misc]  # aiokafka ships no types
    """`share_out`, with the sticky assignor's way of telling what a member had."""

    name = "headwater-even"

    @classmethod
    def assign(
        cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Called by aiokafka in the member that leads the group."""
        said = {name: cls.parse_member_metadata(metadata) for name, metadata in members.items()}
        topics = {topic for member in said.values() for topic in member.subscription}
        given = share_out(
            {topic: cluster.partitions_for_topic(topic) or () for topic in topics},
            {
                name: Member(m.subscription, {(tp.topic, tp.partition) for tp in m.partitions}, m.generation)
                for name, m in said.items()
            },
        )
        return {
            name: ConsumerProtocolMemberAssignment(cls.version, _by_topic(places), b"")
            for name, places in given.items()
        }


def _by_topic(places: Collection[Place]) -> list[tuple[str, list[int]]]:
    found: dict[str, list[int]] = {}
    for topic, partition in sorted(places):
        found.setdefault(topic, []).append(partition)
    return list(found.items())
