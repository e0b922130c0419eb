"""A cut-over as its command carries it out: proposed, decided when every partition is ready, then switched.

The command only writes what is wanted and reads what came of it; should it die, nothing is half done:
a proposal changes nothing, and a decision is carried out by the workers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import msgspec

from processors.versions import Versions, can_migrate, versions_of
from schemas.codec import Codec
from schemas.envelope import new_id
from schemas.errors import HeadwaterError
from schemas.events import FoldCutOver, FoldReady, FoldSwitched
from streams.partitions.log import Log
from streams.versions.decisions import Decisions
from streams.versions.recorded import Fact, Held, Place, held, recorded


class CutOverRefused(HeadwaterError):
    """There is nothing to cut over to, or it cannot be done here or now; nothing was changed."""


class NotAllReady(HeadwaterError):
    """Not every partition could have switched in time; nothing was changed."""

    category = "TEMPORARY"


class NotAllSwitched(HeadwaterError):
    """It is decided, and not every partition has switched yet."""

    category = "TEMPORARY"


class StillProposed(HeadwaterError):
    """A proposal was to be given up, and may stand all the same."""

    category = "TEMPORARY"


class Asked(msgspec.Struct, frozen=True):
    """What a command was told. `to` None: the newest version that is installed."""

    fold: str
    to: int | None = None
    by: str = "somebody"
    reason: str = ""
    refold: bool = False
    at_once: bool = False


def proposal(asked: Asked, installed: Mapping[str, Versions], decisions: Decisions) -> FoldCutOver:
    """The record to begin with: a new one, or the one that is open and says the same.

    Raises NoSuchFold or CutOverRefused.
    """
    name = asked.fold
    versions = versions_of(installed, name)
    here = ", ".join(map(str, versions))
    to = asked.to if asked.to is not None else max(versions)
    if to not in versions:
        raise CutOverRefused(
            f"fold {name}: version {to} is not installed here, there are: {here}",
            hint=f"install version {to} here and where the folds run",
        )
    standing = decisions.plan.folds.get(name)
    if standing is None:
        raise CutOverRefused(
            f"fold {name} has never run on this log: nothing is in force yet",
            hint="start the folds (`headwater up`, `headwater folds`)",
        )
    in_force = standing.version
    if to == in_force or (asked.to is None and to < in_force):
        newest = "" if asked.to is not None else f", and no newer one is installed here (there are: {here})"
        raise CutOverRefused(
            f"fold {name}: version {in_force} is in force already{newest}", hint="see `headwater folds list`"
        )
    old = versions.get(in_force)
    migrates = old is not None and can_migrate(versions[to], old) and not (asked.refold or asked.at_once)
    state: Literal["refold", "migrate"] = "migrate" if migrates else "refold"
    open_ = standing.proposed
    if open_ is not None and not asked.at_once:
        if (open_.to_version, open_.state) == (to, state):
            return open_
        raise CutOverRefused(
            f"fold {name}: a cut-over to version {open_.to_version} ({open_.state}) is under way (by {open_.by})",
            hint=f"let it end, or give it up: headwater folds cut-over {name} --cancel",
        )
    return FoldCutOver(
        fold=name,
        cut_over_id=new_id(),
        phase="decided" if asked.at_once else "proposed",
        from_version=in_force,
        to_version=to,
        state=state,
        at_once=asked.at_once,
        by=asked.by,
        reason=asked.reason,
    )


class CutOver:
    """One cut-over under way. `places` are the partitions that its fold reads; `now` gives seconds since 1970."""

    def __init__(
        self,
        record: FoldCutOver,
        places: Collection[Place],
        source: Log,
        codec: Codec,
        decisions: Decisions,
        now: Callable[[], float],
    ) -> None:
        self.record = record
        self.joined = False
        """Whether another command proposed it; set when this one begins."""
        self.ready: set[Place] = set()
        self.errors: dict[Place, str] = {}
        """Why partitions will not get ready."""
        self.switched: dict[Place, FoldSwitched | None] = {}
        """Partitions that have the version, by the switch that gave it; None: they have had it from the beginning."""
        self.places = places
        self._log = source
        self._codec = codec
        self._decisions = decisions
        self._now = now
        self._begun = False
        self._read: dict[Place, int] = {}
        self._facts: dict[Place, list[Fact]] = {place: [] for place in places}

    @property
    def partitions(self) -> int:
        """How many there are."""
        return len(self.places)

    @property
    def unready(self) -> list[Place]:
        """Partitions whose worker has not said that it could switch; none once that is decided."""
        if self.record.phase == "decided":
            return []
        return sorted(set(self.places) - self.ready - self.switched.keys())

    @property
    def unswitched(self) -> list[Place]:
        """Partitions that the old version still has."""
        return sorted(set(self.places) - self.switched.keys())

    async def begin(self) -> None:
        """Write the record, unless it stands there. Raises CutOverRefused where somebody else was faster."""
        await self._decisions.refresh()
        self.joined = self._counts()
        if not self.joined:
            await self._decisions.write(self.record, self._now())
        self._begun = True
        self._require()

    async def decide(self) -> None:
        """Every partition is ready: let them switch. Raises CutOverRefused where it was given up meanwhile."""
        if self.record.phase == "proposed":
            await self._decisions.write(self.record.model_copy(update={"phase": "decided"}), self._now())
            self._require()

    async def cancel(self) -> bool:
        """Give a proposal up; whether it was still one."""
        await self._decisions.write(self.record.model_copy(update={"phase": "cancelled"}), self._now())
        standing = self._decisions.plan.folds[self.record.fold]
        return standing.decided.cut_over_id != self.record.cut_over_id

    async def look(self) -> None:
        """Read what was recorded since. Raises CutOverRefused where somebody gave it up or decided otherwise."""
        await self._decisions.refresh()
        if self._begun:
            self._require()
        base = self._decisions.plan.folds[self.record.fold].base
        for place, facts in self._facts.items():
            found, self._read[place] = await recorded(
                self._log, self._codec, *place, start=self._read.get(place, 0)
            )
            for fact in found:
                if isinstance(fact, FoldReady) and fact.cut_over_id == self.record.cut_over_id:
                    self._said(place, fact.error)
            facts += [fact for fact in found if fact.fold == self.record.fold]
            position = await self._log.committed(*place) if facts else None
            has = held(facts, position).get(self.record.fold, Held([]))
            if has.version(base) == self.record.to_version:
                self.switched[place] = has.last
            else:
                self.switched.pop(place, None)

    def _said(self, place: Place, error: str | None) -> None:
        """The newest word of a place counts: another worker may have it by now."""
        self.ready.discard(place)
        self.errors.pop(place, None)
        if error is None:
            self.ready.add(place)
        else:
            self.errors[place] = error

    def _counts(self) -> bool:
        standing = self._decisions.plan.folds[self.record.fold]
        known = {r.cut_over_id for r in (standing.decided, standing.proposed) if r is not None}
        return self.record.cut_over_id in known

    def _require(self) -> None:
        """It counts still; another command that joined it may have decided it."""
        standing, record = self._decisions.plan.folds[self.record.fold], self.record
        if standing.decided.cut_over_id == record.cut_over_id:
            self.record = standing.decided
            return
        open_ = standing.proposed
        if record.phase == "proposed" and open_ is not None and open_.cut_over_id == record.cut_over_id:
            return
        if open_ is None and standing.version == record.from_version:
            raise CutOverRefused(
                f"fold {record.fold}: the cut-over to version {record.to_version} was given up by another command",
                hint="see `headwater folds list`",
            )
        other = open_ or standing.decided
        raise CutOverRefused(
            f"fold {record.fold}: somebody else was faster: to version {other.to_version}, "
            f"{other.phase} by {other.by}",
            hint="see `headwater folds list`",
        )
