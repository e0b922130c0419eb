"""The topic `headwater.folds` as a process reads and writes it, on either log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from processors.versions import Versions
from schemas import topics
from schemas.codec import Codec
from schemas.envelope import DEFAULT_PROJECT, Envelope, new_id, to_headers
from schemas.errors import DecodeError, HeadwaterError
from schemas.events import FoldCutOver
from streams.partitions.log import Log, Send
from streams.versions.plan import Plan
from streams.versions.recorded import places_of

log = structlog.get_logger()
WORKER = "headwater folds"
"""Who decides where no person does."""


class VersionNotInstalled(HeadwaterError):
    """The version of a fold that is in force is not installed here; one that is cannot simply take its place."""


class Decisions:
    """What was decided so far. Before `refresh` it knows of nothing."""

    def __init__(self, source: Log, codec: Codec) -> None:
        self.plan = Plan()
        self._log = source
        self._codec = codec
        self._read = 0
        self._lock = asyncio.Lock()

    async def refresh(self) -> bool:
        """Read what was added; whether something was. Raises what the log raises."""
        async with self._lock:
            first, end = await self._log.bounds(topics.FOLDS.name, 0)
            before, start = self._read, max(self._read, first)
            async for batch in self._log.read(topics.FOLDS.name, 0, start, end):
                await self._codec.learn(batch)
                for record in batch:
                    try:
                        event = self._codec.decode(record.value)
                    except DecodeError as error:
                        log.warning("versions.skipped", offset=record.offset, why=str(error))
                        continue
                    if isinstance(event, FoldCutOver) and self.plan.apply(event, record.timestamp):
                        log.info("versions.read", **event.model_dump(exclude_defaults=True))
                self._read = batch[-1].offset + 1  # should the next one fail, this one is not taken twice
            self._read = end
            return end > before

    async def write(self, event: FoldCutOver, now: float) -> None:
        """Append a record and read what counts. `now` is in seconds since 1970; raises what the log raises."""
        envelope = Envelope(
            id=new_id(), source=event.by, type=type(event).__name__, time=now, subject=event.fold
        )
        key = f"{DEFAULT_PROJECT}/{event.fold}".encode()
        await self._log.post(Send(topics.FOLDS.name, key, self._codec.encode(event), to_headers(envelope), 0))
        await self.refresh()

    async def establish(
        self, installed: Mapping[str, Versions], counts: Mapping[str, int], now: float
    ) -> None:
        """See to it that a version that is installed here is in force of every fold; `counts` are partitions by topic.

        Where nothing was decided: the newest version if no fold has read the log, else the oldest,
        since that is the one that can have been at work. Where the one in force is gone: the newest,
        if all that are installed are newer. Raises VersionNotInstalled where one is older, for then
        this is an old installation beside a new one, or where somebody went back from what is newest
        here, for that is not undone by a worker that was started again. And what the log raises.
        """
        await self.refresh()
        for name, versions in installed.items():
            while (standing := self.plan.folds.get(name)) is None or standing.version not in versions:
                if standing is None:
                    fresh = not await self._was_read(versions, counts)
                    to = max(versions) if fresh else min(versions)
                    event = _decision(name, None, to, "the first that was installed")
                elif min(versions) < standing.version or standing.left >= max(versions):
                    raise not_installed(name, standing.version, versions)
                else:
                    reason = f"version {standing.version} is not installed any more"
                    event = _decision(name, standing.version, max(versions), reason)
                    log.warning(
                        "versions.gone", fold=name, in_force=standing.version, takes_over=event.to_version
                    )
                await self.write(event, now)

    async def _was_read(self, versions: Versions, counts: Mapping[str, int]) -> bool:
        for place in places_of(versions, counts):
            if await self._log.committed(*place) is not None:
                return True
        return False


def not_installed(name: str, version: int, versions: Versions) -> VersionNotInstalled:
    """The version in force is not installed here, and nothing that is may simply take its place."""
    return VersionNotInstalled(
        f"fold {name}: version {version} is in force, installed here: {', '.join(map(str, versions))}",
        hint=f"install version {version} here; or put one in force that is: "
        f"headwater folds cut-over {name} --to {max(versions)} --at-once",
    )


def _decision(name: str, from_version: int | None, to_version: int, reason: str) -> FoldCutOver:
    return FoldCutOver(
        fold=name,
        cut_over_id=new_id(),
        phase="decided",
        from_version=from_version,
        to_version=to_version,
        at_once=from_version is not None,
        by=WORKER,
        reason=reason,
    )
