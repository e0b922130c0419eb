"""Which versions of a fold made a partition's state: one that folded all of the log, others that took it over.

A switch that folds anew begins a lineage: the state is what that version makes of all the log. A
switch that migrates goes on with the one before. So a restore needs the code of every version since
the log was last folded anew, unless snapshots spare it that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from processors.fold import Fold
from processors.versions import Versions
from streams.versions.recorded import Switch


class Segment(NamedTuple):
    """A version, and where its part begins: offset, the last tick before it, the switch's term."""

    fold: Fold[Any]
    start: int = 0
    clock: float = 0.0
    term: int = 0


class Takeover(NamedTuple):
    """A switch that was made because a worker took the partition over; to be recorded with what it does next."""

    from_version: int
    cut_over_id: str


class Lineage(NamedTuple):
    """Segments in order; the last is in force. Not `whole`: the code of what came before them is missing."""

    segments: tuple[Segment, ...]
    whole: bool = True
    takeover: Takeover | None = None

    @property
    def fold(self) -> Fold[Any]:
        """The version in force."""
        return self.segments[-1].fold

    @property
    def term(self) -> int:
        """How many switches there were."""
        return self.segments[-1].term


def lineage(versions: Versions, base: int, switches: Sequence[Switch]) -> Lineage | None:
    """What led to the version in force, `base` being the first; None where that version is not installed."""
    segments: list[Segment] = []
    for fact, term in reversed(switches):
        fold = versions.get(fact.version)
        if fold is None:
            return Lineage(tuple(segments), whole=False) if segments else None
        if fact.state == "refold" or fold.state is None:
            return Lineage((Segment(fold, 0, fact.clock, term), *segments))
        segments.insert(0, Segment(fold, fact.position, fact.clock, term))
    first = versions.get(base)
    if first is None:
        return Lineage(tuple(segments), whole=False) if segments else None
    return Lineage((Segment(first), *segments))


def taken_over(fold: Fold[Any], made: int, takeover: Takeover) -> Lineage:
    """The lineage of a version that folds the log anew, after `made` switches."""
    return Lineage((Segment(fold, term=made + 1),), takeover=takeover)
