"""What commands about versions need of Kafka: to read everything of it, and to write what is decided."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from processors.catalog import folds as catalog
from processors.fold import Fold
from processors.versions import Versions, by_name, versions_of
from schemas.codec import Codec
from schemas.errors import HeadwaterError
from schemas.events import FoldCutOver
from streams.admin import admin_client, declared, require_topics
from streams.codec import codec_of
from streams.kafka import COMMAND_S, patiently
from streams.partitions.kafka_log import KafkaLog
from streams.partitions.log import FOLDS, Log
from streams.settings import Settings
from streams.versions.cut_over import (
    Asked,
    CutOver,
    CutOverRefused,
    NotAllReady,
    NotAllSwitched,
    StillProposed,
    proposal,
)
from streams.versions.decisions import Decisions
from streams.versions.listing import Listed, listing
from streams.versions.recorded import Place, places_of

_LOOK_S = 0.3
Report = Callable[[CutOver], None]


@dataclass(frozen=True)
class Session:
    """A connection; `counts` are the partitions of each topic."""

    log: Log
    codec: Codec
    decisions: Decisions
    installed: Mapping[str, Versions]
    counts: Mapping[str, int]

    async def listing(self) -> list[Listed]:
        """Every fold that is installed here."""
        return await listing(self.log, self.codec, self.decisions, self.installed, self.counts)

    async def length(self, topic: str, partition: int) -> int:
        """Offsets of a partition that the group has folded."""
        first, _ = await self.log.bounds(topic, partition)
        return max(0, (await self.log.committed(topic, partition) or first) - first)

    async def part_of_history(self, places: Iterable[Place]) -> str | None:
        """A warning where the log no longer begins at its first record; None where it does everywhere."""
        cut = [place for place in places if (await self.log.bounds(*place))[0] > 0]
        if not cut:
            return None
        return (
            f"the log no longer begins at its first record in {_listed(cut)}: a version that folds it anew "
            "sees part of history only"
        )

    def cut_over(self, asked: Asked) -> CutOver:
        """What is asked for, not begun yet. Raises NoSuchFold or CutOverRefused."""
        return self.resumed(proposal(asked, self.installed, self.decisions))

    def resumed(self, record: FoldCutOver) -> CutOver:
        """One whose record is there, or is to be written. Raises NoSuchFold."""
        places = places_of(versions_of(self.installed, record.fold), self.counts)
        return CutOver(record, places, self.log, self.codec, self.decisions, time.time)


@asynccontextmanager
async def session(settings: Settings, folds: Iterable[Fold[Any]] | None = None) -> AsyncIterator[Session]:
    """A session, with what was decided so far; the catalog's folds unless given.

    Raises BrokerUnavailable, ConfigurationError where topics are missing or folds do not fit together.
    """
    folds = list(catalog() if folds is None else folds)
    installed = by_name(folds)
    specs = declared(settings, folds)
    await require_topics(settings, specs)
    codec = await codec_of(settings)
    log = KafkaLog(settings, FOLDS)
    await log.start(COMMAND_S)
    try:
        decisions = Decisions(log, codec)
        await decisions.refresh()
        counts = {spec.name: spec.partitions for spec in specs}
        yield Session(log, codec, decisions, installed, counts)
    finally:
        await log.close()


async def in_force(settings: Settings) -> dict[str, int]:
    """The version in force of each fold that has run on this log. Raises as `session`."""
    async with session(settings) as at:
        return {name: standing.version for name, standing in at.decisions.plan.folds.items()}


async def manned(settings: Settings) -> bool:
    """Whether workers of the folds are up; Kafka counts one that died for some seconds more."""
    async with admin_client(settings) as client:
        groups = [settings.named(FOLDS)]
        answers = await patiently(
            settings,
            "asking for the folds' workers",
            lambda: client.describe_consumer_groups(groups),
            COMMAND_S,
        )
    return any(group["members"] for answer in answers for group in answer.to_object()["groups"])


async def _yes() -> bool:
    return True


async def carry_out(
    command: CutOver, timeout_s: float, report: Report, manned: Callable[[], Awaitable[bool]] = _yes
) -> None:
    """Do it, and wait until every partition has switched.

    What is done at once is not waited for where no worker is up (`manned`): then some are `unswitched`.

    Raises CutOverRefused, NotAllReady after `timeout_s` or as soon as a worker says that it never
    will be, or NotAllSwitched after as long again. Where it is not ready or this is cancelled, it
    is given up, unless another command proposed it; raises StillProposed where that fails. `report`
    is told after each look at the log.
    """
    await command.begin()
    try:
        if not await _until(command, lambda: command.unready, timeout_s, report):
            raise _not_ready(command, timeout_s)
    except CutOverRefused:
        raise  # it is gone already
    except BaseException as error:
        if command.record.phase == "proposed" and not command.joined:
            await _give_up(command, error)
        raise
    await command.decide()
    if command.record.at_once and not await manned():
        await command.look()
        return
    if not await _until(command, lambda: command.unswitched, timeout_s, report):
        raise NotAllSwitched(
            f"fold {command.record.fold}: version {command.record.to_version} is decided, and not yet in force in "
            f"{_listed(command.unswitched)}{_because(command)}",
            hint="their workers switch when they run with this version installed: start them now, if they are "
            "down; see `headwater folds list`",
        )


async def _give_up(command: CutOver, because: BaseException) -> None:
    fold = command.record.fold
    try:
        given_up = await asyncio.shield(command.cancel())
    except HeadwaterError as error:
        raise StillProposed(
            f"fold {fold}: the cut-over to version {command.record.to_version} still stands as proposed: "
            f"it could not be given up: {error.message}",
            hint=f"run the same command again, or give it up: headwater folds cut-over {fold} --cancel",
        ) from because
    if not given_up:
        raise StillProposed(
            f"fold {fold}: the cut-over to version {command.record.to_version} was decided by another command",
            hint="see `headwater folds list`",
        ) from because


def _not_ready(command: CutOver, timeout_s: float) -> NotAllReady:
    fold, version = command.record.fold, command.record.to_version
    if command.errors:
        return NotAllReady(
            f"fold {fold}: version {version} cannot take over{_because(command)}; {_outcome(command)}",
            hint=f"see what it raises on: headwater folds diff {fold} --candidate {version}",
        )
    return NotAllReady(
        f"fold {fold}: not ready for version {version} within {timeout_s:g} s: {_listed(command.unready)}; "
        f"{_outcome(command)}",
        hint="are the folds running, each with this version installed? Long logs take longer: --timeout",
    )


def _outcome(command: CutOver) -> str:
    if command.joined:
        return f"the cut-over of {command.record.by} still stands, until it is given up with --cancel"
    return "the cut-over was given up"


def _because(command: CutOver) -> str:
    if not command.errors:
        return ""
    (topic, partition), error = min(command.errors.items())
    return f": in {topic}/{partition} {error}"


async def _until(
    command: CutOver, missing: Callable[[], list[Place]], timeout_s: float, report: Report
) -> bool:
    """Look until nothing is missing; false when time is over, or where something never comes."""
    end = time.monotonic() + timeout_s
    while True:
        await command.look()
        report(command)
        if not missing():
            return True
        if time.monotonic() >= end or command.errors:
            return False
        await asyncio.sleep(_LOOK_S)


def _listed(places: list[Place]) -> str:
    named = [f"{topic}/{partition}" for topic, partition in places]
    return ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
