"""One version of a fold after another in a partition: it gets ready beside the one in force, then takes over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import structlog

from processors.fold import Fold
from processors.versions import can_migrate
from schemas.errors import HeadwaterError
from schemas.events import FoldCutOver
from streams.folding.candidate import NEAR, Candidate
from streams.folding.engine import Engine
from streams.folding.slot import Slot
from streams.folding.snapshots import Skip
from streams.folding.succession import State, Succession
from streams.partitions.log import Log
from streams.versions.decisions import Decisions

log = structlog.get_logger()
Progress = Literal["ready", "working", "waiting"]
"""Of getting ready: it is; it goes on as soon as there is time; there is nothing to be done for now."""


class Wanted(NamedTuple):
    """A version that is to take over, and the record that says so."""

    fold: Fold[Any]
    record: FoldCutOver

    @property
    def decided(self) -> bool:
        """Whether it is to be done, and not only to be got ready for."""
        return self.record.phase == "decided"

    @property
    def at_once(self) -> bool:
        """Whether it is to be done without getting ready."""
        return self.decided and self.record.at_once


class Change(NamedTuple):
    """What the engine becomes once the switch is in the log."""

    fold: Fold[Any]
    term: int
    states: dict[str, Any]
    candidate: Candidate | None

    @property
    def skips(self) -> list[Skip]:
        """What the version was not given, on which its state depends."""
        return list(self.candidate.engine.skips) if self.candidate is not None else []

    def apply(self, slot: Slot, engine: Engine) -> None:
        """Let the version go on in the slot."""
        if self.candidate is not None:
            engine.succeed(slot, self.candidate.engine, self.term)
        else:
            engine.take_over(slot, self.states, self.fold, self.term)


class Handover:
    """Of the folds of one (topic, partition). What gets ready outlives engines: it is a function of the log."""

    def __init__(self, succession: Succession, source: Log, decisions: Decisions, near: int = NEAR) -> None:
        self._succession = succession
        self._log = source
        self._decisions = decisions
        self._near = near
        self._candidates: dict[str, Candidate] = {}
        self._told: set[str] = set()
        """What was said of cut-overs: that they can be made, or cannot, or that their version is not installed."""
        self._anew: set[str] = set()
        """Cut-overs that could not migrate a state."""

    async def began(self, engine: Engine) -> None:
        """An engine was brought up: candidates go on beside it if they can."""
        self._told.clear()
        for name, candidate in list(self._candidates.items()):
            candidate.beside = engine
            if not candidate.fits(engine):
                await self._drop(name)

    async def close(self) -> None:
        """Read nothing until the next call."""
        for candidate in self._candidates.values():
            await candidate.close()

    async def wanted(self, slot: Slot) -> Wanted | None:
        """The version that is to take over from the slot's, if one is and it is installed here.

        Where a decision did not get here yet and the way back is proposed, that is the slot's own.
        """
        name = slot.fold.name
        standing = self._decisions.plan.folds.get(name)
        record = None
        if standing is not None:
            record = standing.proposed
            here = standing.version, record.to_version if record is not None else None
            if slot.fold.version not in here:
                record = standing.decided
        fold = self._succession.versions[name].get(record.to_version) if record is not None else None
        if record is not None and fold is not None:
            return Wanted(fold, record)
        await self._drop(name)
        if record is not None and self._first_time(record):
            log.warning(
                "fold.version_not_installed",
                fold=name,
                version=record.to_version,
                installed=list(self._succession.versions[name]),
                phase=record.phase,
                hint="update this worker",
            )
        return None

    async def ready(
        self,
        wanted: Wanted,
        slot: Slot,
        engine: Engine,
        budget_s: float,
        clock: Callable[[], float],
    ) -> Progress:
        """Whether the switch could be made now; until then, each call works on it for a while.

        A log that is away is waited for.
        """
        name = slot.fold.name
        there = wanted.fold.version == slot.fold.version
        if there or wanted.fold.state is None or self._state(wanted, slot) == "migrate":
            await self._drop(name)
            return "ready"
        candidate = self._candidates.get(name)
        if candidate is None or candidate.fold.version != wanted.fold.version:
            await self._drop(name)
            candidate = self._candidates[name] = Candidate(wanted.fold, engine, self._log, self._near)
        try:
            level = await candidate.advance(budget_s, clock)
        except HeadwaterError as error:
            if not error.retriable:
                raise
            log.warning("fold.waits", fold=name, version=wanted.fold.version, why=str(error))
            await candidate.close()
            return "waiting"
        if candidate.error is not None:
            return "waiting"
        return "ready" if level else "working"

    def level(self) -> list[Candidate]:
        """Those that have folded all that the version in force has."""
        return [candidate for candidate in self._candidates.values() if candidate.level]

    def tell(self, wanted: Wanted, progress: Progress) -> bool:
        """Let it be recorded that the switch could be made, or why it never could; false if that was done."""
        candidate = self._candidates.get(wanted.fold.name)
        error = candidate.error if candidate is not None else None
        if (progress != "ready" and error is None) or not self._first_time(wanted.record, error):
            return False
        if error is not None:
            log.error("fold.never_ready", fold=wanted.fold.name, version=wanted.fold.version, why=error)
        self._succession.tell(wanted.record, error)
        return True

    async def begin(self, wanted: Wanted, slot: Slot, engine: Engine) -> Change:
        """Let the switch be recorded with the next transaction; what it makes of the engine.

        Raises Spoilt where a state cannot be loaded or migrated.
        """
        fold, state, states = wanted.fold, self._state(wanted, slot), dict[str, Any]()
        candidate = self._candidates.pop(fold.name, None)  # its states are soon the engine's
        if state == "migrate":
            states = await engine.migrated(slot, fold)
        elif candidate is not None:
            engine.letters += candidate.letters
            engine.catch_up(candidate.engine)
        term = self._succession.switch(wanted.record, slot, engine, fold, state)
        return Change(fold, term, states, candidate)

    def fold_anew(self, record: FoldCutOver) -> None:
        """The state cannot be migrated: let this switch fold the log anew."""
        self._anew.add(record.cut_over_id)

    def _state(self, wanted: Wanted, slot: Slot) -> State:
        migrates = wanted.record.state == "migrate" and can_migrate(wanted.fold, slot.fold)
        return "migrate" if migrates and wanted.record.cut_over_id not in self._anew else "refold"

    async def _drop(self, fold: str) -> None:
        candidate = self._candidates.pop(fold, None)
        if candidate is not None:
            await candidate.close()

    def _first_time(self, record: FoldCutOver, error: str | None = None) -> bool:
        key = f"{record.cut_over_id}/{record.phase}/{error or ''}"
        told = key in self._told
        self._told.add(key)
        return not told
