"""One partition's way through the log: take over, restore, fold batches, commit, snapshot.

Why it is made so. A transaction carries a batch's outputs and its input position, so that a batch
happened or did not. State is not in the transaction: it is a fold of the log, kept in memory, and
saved now and then, each key with the position that it covers. Hence one rule: memory never runs
ahead of the log. Any fault of a transaction throws the state away and starts from `assign`, where
the order matters: fence first (that ends a predecessor's open transaction), only then read the
position. Saving all state with each batch was rejected: a river model of 45 KB takes 1 ms to dump.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from processors.fold import Fold
from schemas import events as e
from schemas import topics
from schemas.codec import Codec, Record
from schemas.errors import OffsetOutOfRange
from streams.folding.candidate import NEAR
from streams.folding.engine import Engine, NotMigrated, Poison
from streams.folding.handover import Handover, Wanted
from streams.folding.restore import Lost, Restore
from streams.folding.rounds import INTERVAL_S, Rounds
from streams.folding.slot import FoldStats, Slot, Spoilt, Unreadable
from streams.folding.snapshots import Sealer, Skip
from streams.folding.succession import Succession
from streams.folding.ticks import tick_send
from streams.folding.wakes import LIVE
from streams.partitions.log import FOLDS, Log, Send, Step, Transactions, require_in_log
from streams.versions.decisions import Decisions

log = structlog.get_logger()
_LEAST_SLICE_S, _SLICE_S = 0.005, 0.05
"""How long versions that get ready may fold between two batches: as long as the batch took, within these."""


class PartitionTask:
    """Owns the state of one (topic, partition) and the right to write for it."""

    def __init__(
        self,
        topic: topics.Topic,
        partition: int,
        folds: Callable[[], Iterable[Fold[Any]]],
        source: Log,
        *,
        codec: Codec,
        secret: bytes,
        context: str = "folds",
        group: str = FOLDS,
        step: Step = lambda _: None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        snapshot_interval_s: float = INTERVAL_S,
        decisions: Decisions | None = None,
        nudge: Callable[[], None] = lambda: None,
        near: int = NEAR,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.engine: Engine | None = None
        self.restore_s = 0.0
        self.restored_events = 0
        self.switch_s = 0.0
        """How long the last switch to another version of a fold took, seconds."""
        self.stats: dict[str, FoldStats] = {}
        self._group = group
        self._nudge = nudge
        decisions = decisions or Decisions(source, codec)
        self._succession = Succession(topic, partition, folds, source, codec, decisions)
        self._handover = Handover(self._succession, source, decisions, near)
        self._log = source
        self._codec = codec
        self._sealer = Sealer(secret, f"{context}/{topic.name}/{partition}")
        self._step = step
        self._now = now
        self._monotonic = monotonic
        self._interval_s = snapshot_interval_s
        self._transactions: Transactions | None = None
        self._rounds: Rounds | None = None
        self._ticked = False
        self._pending: dict[Skip, Exception] = {}
        """Skips whose dead letters are not in the log yet; they outlive the engine."""
        self._refold: set[str] = set()
        """Folds of which a state could not be loaded: this task uses no snapshots of theirs, since what
        it saves anew may itself have been cut short."""

    @property
    def position(self) -> int:
        """Offset of the next record that it wants."""
        assert self.engine is not None
        return self.engine.position

    @property
    def slots(self) -> list[Slot]:
        """The folds with their states, while the task is up."""
        return self.engine.slots if self.engine is not None else []

    async def assign(self) -> None:
        """Take over: fence, read the position, restore. State that still stands there is kept.

        Raises OffsetOutOfRange where the committed position is not in the log, or got lost.
        """
        name, partition = self.topic.name, self.partition
        self._step("assign.begin")
        if await self._stands():
            self._step("assign.ready")
            return
        await self.discard()
        self._transactions = await self._log.fence(name, partition, self._step)
        self._step("assign.fenced")
        committed = await self._log.committed(name, partition)
        first, end = await self._log.bounds(name, partition)
        require_in_log(name, partition, committed, first, end)
        await self._succession.read(committed)
        await self._rebuild(first, committed)
        self._step("assign.ready")

    async def _stands(self) -> bool:
        """Whether state is where the group is. A successor that moved nothing shows at the next commit."""
        if self.engine is None or self._transactions is None:
            return False
        return await self._log.committed(self.topic.name, self.partition) == self.engine.position

    async def suspend(self) -> None:
        """Between batches nothing is under way but what reads ahead."""
        await self._handover.close()

    async def discard(self) -> None:
        """Throw state and right to write away; the next `assign` starts from the log."""
        self.engine = self._rounds = None
        await self._handover.close()
        transactions, self._transactions = self._transactions, None
        if transactions is not None:
            await transactions.close()

    async def _rebuild(self, first: int, committed: int | None) -> None:
        started = time.monotonic()
        position = first if committed is None else committed
        while True:
            lineages = self._succession.lineages()
            folds = [lineage.fold for lineage in lineages.values()]
            engine = Engine(self.topic, self.partition, folds, self._codec, self._group)
            restore = Restore(engine, self._log, self._sealer, self._step, self._refold, lineages)
            engine.skips.update(self._pending)
            try:
                await restore.run(first, position)
                break
            except Spoilt as spoilt:
                # A fold took this once and raises now: it changed without a new version, or its
                # skip was signed with another key. From here on it is skipped and reported.
                self._note(spoilt)
        if committed is None and restore.saved > first:
            raise OffsetOutOfRange(
                f"{self.topic.name}/{self.partition}: folded up to {restore.saved} at least, but the group's "
                "position is gone",
                hint="Kafka forgets those of idle groups (offsets.retention.minutes): set it on purpose",
            )
        engine.position = position
        engine.restored()
        for slot in engine.slots:  # what the restore folded was counted when it was new
            slot.stats = self.stats.setdefault(slot.fold.name, FoldStats())
        engine.letters = [(skip, send) for skip, send in engine.letters if skip in self._pending]
        self.engine = engine
        self._succession.began(engine, lineages)
        await self._handover.began(engine)
        self._rounds = Rounds(
            engine,
            self._sealer,
            restore.tick_offset,
            saved=restore.saved,
            interval_s=self._interval_s,
            clock=self._monotonic,
        )
        self.restore_s = time.monotonic() - started
        self.restored_events = restore.events

    def _note(self, spoilt: Spoilt) -> None:
        """What the next rebuild has to do otherwise."""
        log.error("fold.spoilt", topic=self.topic.name, partition=self.partition, why=str(spoilt))
        if isinstance(spoilt, Poison):
            self._pending[spoilt.skip] = spoilt.cause
        elif isinstance(spoilt, Unreadable):
            self._refold.add(spoilt.fold)
        elif isinstance(spoilt, Lost | NotMigrated):
            self._succession.give_up(spoilt.fold)

    async def handle(self, records: Sequence[Record]) -> None:
        """Fold a batch and commit it. Raises what the log raises; then the state is gone: `assign` anew."""
        began = self._monotonic()
        while True:
            assert self.engine is not None
            try:
                position = self.engine.position
                records = [r for r in records if r.offset >= position]
                level = self._handover.level()
                await self._codec.learn(records)
                sends = self.engine.process(records)
                self._step("batch.folded")
                await self._commit(sends)
                break
            except Spoilt as spoilt:
                self._note(spoilt)
                self.engine = None  # the right to write stays
                await self.discard()
                await self.assign()
                continue
            except BaseException:
                await self.discard()
                raise
        for candidate in level:
            candidate.took(records)
        await self._tick_if_due()  # where records keep coming, nobody is ever idle
        await self._succeed(min(max(self._monotonic() - began, _LEAST_SLICE_S), _SLICE_S))

    async def idle(self, position: int = 0) -> None:
        """What is due without a record: a tick, or a part of a snapshot. To be called every second or so.

        `position` is where a reader of the partition stands that has met no record since: commit
        markers take offsets, and whoever compares the group's position with the log's end counts them.
        """
        assert self.engine is not None and self._rounds is not None  # noqa: PT018
        behind = position > self.engine.position
        level = self._handover.level()
        self.engine.position = max(position, self.engine.position)
        for candidate in level:
            candidate.passed(self.engine.position)
        ticked = await self._tick_if_due()
        due = self._succession.due or (self.engine.stateful and (self._rounds.open or self._rounds.due()))
        if not ticked and (behind or self.engine.letters or due):
            await self._commit_or_discard()
        await self._succeed(_SLICE_S)

    async def _tick_if_due(self) -> bool:
        """Whether a fold waited for this moment."""
        assert self.engine is not None
        wake, now = self.engine.next_wake(), self._now()
        if wake is None or wake > now:
            return False
        await self._tick(max(now, self.engine.clocks.get(LIVE, 0.0)))
        return True

    async def _tick(self, at: float) -> None:
        assert self.engine is not None
        tick = e.Tick(topic=self.topic.name, partition=self.partition, after_offset=self.position, at=at)
        level = self._handover.level()
        try:
            sends = self.engine.tick(at)
            self._step("tick.folded")
            self._ticked = True
            await self._commit([tick_send(tick, self._codec), *sends])
            for candidate in level:
                candidate.ticked(tick)
        except Spoilt as spoilt:
            # The wake is still open in the log: the next tick meets it again, and its skip reports it.
            self._note(spoilt)
            await self.discard()
            await self.assign()
        except BaseException:
            await self.discard()
            raise

    async def _commit(self, sends: list[Send]) -> None:
        """One transaction: outputs, dead letters with their skips, switches, a part of a snapshot, the position."""
        engine, rounds = self.engine, self._rounds
        assert engine is not None and rounds is not None and self._transactions is not None  # noqa: PT018
        for skip, letter in engine.letters:
            sends.append(letter)
            if engine.stateful:
                sends.append(rounds.skip(skip))
        if engine.stateful:
            if rounds.due():
                await self._begin_round(rounds)
            sends += rounds.take()
            self._step("batch.snapshot")
        sends += self._succession.sends(self._now())
        await self._transactions.commit(sends, engine.position)
        self._succession.committed()
        for skip, _ in engine.letters:
            engine.skips[skip] = None
            self._pending.pop(skip, None)
            if skip.fold:
                self.stats[skip.fold].dead_letters += 1
        engine.letters.clear()
        self._step("batch.committed")

    async def _commit_or_discard(self) -> None:
        try:
            await self._commit([])
        except BaseException:
            await self.discard()
            raise

    async def _succeed(self, budget_s: float) -> None:
        """Between batches: let versions that are wanted get ready for a while in all, or take over."""
        handover, engine = self._handover, self.engine
        end = self._monotonic() + budget_s
        assert engine is not None
        for slot in engine.slots:
            wanted = await handover.wanted(slot)
            if wanted is None:
                continue
            if wanted.at_once:
                return await self._anew()
            left_s = max(0.0, end - self._monotonic())
            progress = await handover.ready(wanted, slot, engine, left_s, self._monotonic)
            if progress == "ready" and wanted.decided:
                return await self._switch(wanted, slot)
            if progress == "working":
                self._nudge()
            elif handover.tell(wanted, progress):
                self._step("switch.ready")
                await self._commit_or_discard()
        return None

    async def _anew(self) -> None:
        await self.discard()
        await self.assign()

    async def _switch(self, wanted: Wanted, slot: Slot) -> None:
        """Let the version take over at this position: from the moment that it is in the log, it has."""
        engine, rounds, old = self.engine, self._rounds, slot.fold.version
        assert engine is not None and rounds is not None  # noqa: PT018
        started = time.monotonic()
        try:
            change = await self._handover.begin(wanted, slot, engine)
            self._step("switch.begun")
            # Folds without state need no skips in the changelog; who follows them does.
            await self._commit([] if engine.stateful else [rounds.skip(skip) for skip in change.skips])
        except Spoilt as spoilt:
            if isinstance(spoilt, NotMigrated):
                log.warning("fold.not_migrated", fold=spoilt.fold, why=str(spoilt), instead="it folds anew")
                self._handover.fold_anew(wanted.record)
            else:
                self._note(spoilt)
            return await self._anew()  # some states may have been changed already
        except BaseException:
            await self.discard()
            raise
        rounds.abandon()
        change.apply(slot, engine)
        self.switch_s = time.monotonic() - started
        self._step("switch.done")
        log.info(
            "fold.switched",
            fold=slot.fold.name,
            from_version=old,
            version=slot.fold.version,
            topic=self.topic.name,
            partition=self.partition,
            position=engine.position,
            pause_ms=round(self.switch_s * 1000, 1),
        )
        return None

    async def _begin_round(self, rounds: Rounds) -> None:
        tick_offset = rounds.tick_offset
        if self._ticked:
            # Ticks of this transaction are not there yet, and those of the round before may be: the
            # restore drops ticks that the marker's clock reflects already.
            _, tick_offset = await self._log.bounds(topics.ticks(self.topic.name), self.partition)
            self._ticked = False
        rounds.begin(tick_offset)
