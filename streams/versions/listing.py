"""Where each fold stands: what is installed, what was decided, and which version each partition has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from processors.versions import Versions
from schemas.codec import Codec
from schemas.events import FoldSwitched
from streams.partitions.log import Log
from streams.versions.decisions import Decisions
from streams.versions.plan import Standing
from streams.versions.recorded import Held, Place, held, places_of, recorded


class Had(NamedTuple):
    """The version that a partition has, and the switch that gave it; None: it has had it from the beginning."""

    version: int
    switch: FoldSwitched | None


class Listed(msgspec.Struct, frozen=True):
    """One fold. `standing` None: it has never run on this log."""

    name: str
    installed: tuple[int, ...]
    standing: Standing | None
    places: dict[Place, Had]

    @property
    def behind(self) -> list[Place]:
        """Partitions that have not switched to the version that was decided."""
        wanted = self.standing.version if self.standing is not None else None
        return [place for place, had in self.places.items() if had.version != wanted]


async def listing(
    source: Log,
    codec: Codec,
    decisions: Decisions,
    installed: Mapping[str, Versions],
    counts: Mapping[str, int],
) -> list[Listed]:
    """Every fold that is installed. Raises what the log raises."""
    await decisions.refresh()
    switches: dict[Place, dict[str, Held]] = {}
    found = []
    for name, versions in installed.items():
        standing = decisions.plan.folds.get(name)
        places: dict[Place, Had] = {}
        for place in places_of(versions, counts) if standing is not None else ():
            if place not in switches:
                facts, _ = await recorded(source, codec, *place)
                switches[place] = held(facts, await source.committed(*place) if facts else None)
            of = switches[place].get(name, Held([]))
            assert standing is not None
            places[place] = Had(of.version(standing.base), of.last)
        found.append(Listed(name, tuple(versions), standing, places))
    return found
