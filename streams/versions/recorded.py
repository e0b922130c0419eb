"""What the workers of one partition recorded of its folds' versions: who is ready, and what was switched where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from processors.versions import Versions
from schemas import topics
from schemas.codec import Codec
from schemas.events import FoldReady, FoldSwitched
from streams.partitions.log import Log

Fact = FoldReady | FoldSwitched
Place = tuple[str, int]
"""A topic, and a partition of it."""


class Switch(NamedTuple):
    """A switch, and the term that it begins: how many of its fold there were in this partition."""

    fact: FoldSwitched
    term: int


class Held(NamedTuple):
    """The switches of one fold that hold, in order, and how many were made at all."""

    switches: list[Switch]
    made: int = 0

    @property
    def last(self) -> FoldSwitched | None:
        """The switch that gave the partition its version; None: it has had it from the beginning."""
        return self.switches[-1].fact if self.switches else None

    def version(self, base: int) -> int:
        """The version that the partition has, `base` being the first."""
        return self.last.version if self.last is not None else base


def places_of(versions: Versions, counts: Mapping[str, int]) -> list[Place]:
    """The partitions that a fold reads; `counts` are those of each topic."""
    first = next(iter(versions.values()))
    return [(topic.name, p) for topic in first.topics for p in range(counts[topic.name])]


async def recorded(
    source: Log, codec: Codec, topic: str, partition: int, start: int = 0
) -> tuple[list[Fact], int]:
    """What was recorded from offset `start`, and where to go on. Raises what the log raises.

    Only the partition's owner writes there: who has fenced it reads all that its predecessors recorded.
    """
    name = topics.versions(topic)
    first, end = await source.bounds(name, partition)
    found: list[Fact] = []
    async for batch in source.read(name, partition, max(first, start), end):
        await codec.learn(batch)
        for record in batch:
            event = codec.decode(record.value)
            assert isinstance(event, FoldReady | FoldSwitched)
            found.append(event)
    return found, end


def held(facts: Iterable[Fact], position: int | None) -> dict[str, Held]:
    """The switches by fold, where the group stands at `position` (None: nowhere).

    What was switched at positions that the group was set back before, on purpose, is void.
    """
    found: dict[str, Held] = {}
    for fact in facts:
        if not isinstance(fact, FoldSwitched):
            continue
        switches, made = found.get(fact.fold, Held([]))
        while switches and switches[-1].fact.position > fact.position:
            switches.pop()
        switches.append(Switch(fact, made + 1))
        found[fact.fold] = Held(switches, made + 1)
    for switches, _ in found.values():
        while switches and switches[-1].fact.position > (position or 0):
            switches.pop()
    return found
