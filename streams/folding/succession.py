"""The versions of one partition's folds: which is in force, how it came to its state, what is to be recorded.

What was decided is everybody's (`headwater.folds`); from where it holds is each partition's own fact,
written by its owner in the transaction that begins there. Offsets agreed upon beforehand were
rejected: a worker may have passed one before it hears of it. So a partition's past is never open to
question, however late its worker learns of a decision or whatever kills it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import structlog

from processors.fold import Fold
from processors.versions import by_name
from schemas import topics
from schemas.codec import Codec
from schemas.envelope import Envelope, derived_id, to_headers
from schemas.events import FoldCutOver, FoldReady, FoldSwitched
from streams.folding.engine import Engine
from streams.folding.lineage import Lineage, Takeover, lineage, taken_over
from streams.folding.slot import Slot
from streams.folding.wakes import LIVE
from streams.partitions.log import Log, Send
from streams.versions.decisions import Decisions, not_installed
from streams.versions.recorded import Fact, Held, Switch, held, recorded

log = structlog.get_logger()
State = Literal["refold", "migrate"]


class Succession:
    """Of one (topic, partition); `folds` gives every installed version of the folds that read it."""

    def __init__(
        self,
        topic: topics.Topic,
        partition: int,
        folds: Callable[[], Iterable[Fold[Any]]],
        source: Log,
        codec: Codec,
        decisions: Decisions,
    ) -> None:
        self.due: list[Fact] = []
        """What is to be recorded with the next transaction."""
        self._topic = topic
        self._partition = partition
        self.versions = by_name(folds())
        self._log = source
        self._codec = codec
        self._decisions = decisions
        self._held: dict[str, Held] = {}
        self._lost: set[str] = set()

    async def read(self, position: int | None) -> None:
        """Learn what was decided, and what the partition's owners recorded. Raises what the log raises."""
        await self._decisions.refresh()
        facts, _ = await recorded(self._log, self._codec, self._topic.name, self._partition)
        found = held(facts, position)
        if found != self._held:
            self._lost.clear()
        self._held = found
        self.due.clear()

    def lineages(self) -> dict[str, Lineage]:
        """By fold, how the version in force came to its state. Raises VersionNotInstalled."""
        return {name: self._lineage(name) for name in self.versions}

    def _lineage(self, name: str) -> Lineage:
        versions, standing = self.versions[name], self._decisions.plan.folds.get(name)
        of = self._held.get(name, Held([]))
        base = standing.base if standing is not None else max(versions)
        in_force = of.version(base)
        found = None if name in self._lost else lineage(versions, base, of.switches)
        decided = versions.get(standing.version) if standing is not None else None
        at_once = standing is not None and standing.decided.at_once and standing.version != in_force
        if found is not None and not (at_once and decided is not None):
            return found
        fold = decided or versions.get(in_force)
        if fold is None or standing is None:
            raise not_installed(name, in_force, versions)
        log.warning(
            "fold.taken_over",
            fold=name,
            from_version=in_force,
            version=fold.version,
            topic=self._topic.name,
            partition=self._partition,
            state="refold",
        )
        return taken_over(fold, of.made, Takeover(in_force, standing.decided.cut_over_id))

    def began(self, engine: Engine, lineages: dict[str, Lineage]) -> None:
        """An engine was brought up: let what it took over be recorded."""
        for its in lineages.values():
            if its.takeover is not None:
                self.due.append(self._switched(engine, its.fold, *its.takeover, "refold"))

    def give_up(self, fold: str) -> None:
        """The state that the version in force should have cannot be had any more: from here on it is another."""
        self._lost.add(fold)

    def tell(self, record: FoldCutOver, error: str | None) -> None:
        """Let it be recorded that a switch could be made, or why it will not be."""
        self.due.append(
            FoldReady(
                fold=record.fold,
                cut_over_id=record.cut_over_id,
                version=record.to_version,
                topic=self._topic.name,
                partition=self._partition,
                error=error,
            )
        )

    def switch(self, record: FoldCutOver, slot: Slot, engine: Engine, fold: Fold[Any], state: State) -> int:
        """Let it be recorded that a version takes over where the engine stands; returns the term that begins."""
        self.due.append(self._switched(engine, fold, slot.fold.version, record.cut_over_id, state))
        return self._held.get(fold.name, Held([])).made + 1

    def _switched(
        self, engine: Engine, fold: Fold[Any], from_version: int, cut_over_id: str, state: State
    ) -> FoldSwitched:
        return FoldSwitched(
            fold=fold.name,
            cut_over_id=cut_over_id,
            from_version=from_version,
            version=fold.version,
            topic=self._topic.name,
            partition=self._partition,
            position=engine.position,
            clock=engine.clocks.get(LIVE, 0.0),
            state=state,
        )

    def sends(self, now: float) -> list[Send]:
        """The records of what is due, made at `now` (seconds since 1970)."""
        return [self._send(fact, now) for fact in self.due]

    def _send(self, fact: Fact, now: float) -> Send:
        place = f"{fact.topic}/{fact.partition}"
        kind = type(fact).__name__
        at = f"{fact.position}" if isinstance(fact, FoldSwitched) else fact.error or ""
        envelope = Envelope(
            id=derived_id(kind, fact.fold, fact.cut_over_id, place, at),
            source="headwater/folds",
            type=kind,
            time=now,
            subject=fact.fold,
        )
        value = self._codec.encode(fact)
        return Send(topics.versions(fact.topic), place.encode(), value, to_headers(envelope), self._partition)

    def committed(self) -> None:
        """What was due is recorded."""
        for fact in self.due:
            if isinstance(fact, FoldSwitched):
                switches, made = self._held.get(fact.fold, Held([]))
                self._held[fact.fold] = Held([*switches, Switch(fact, made + 1)], made + 1)
                self._lost.discard(fact.fold)
        self.due.clear()
