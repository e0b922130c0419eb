"""Sends a recorded data set into a project: in batches, at the data's own pace or as fast as it goes."""

from __future__ import annotations

import asyncio
import time as _time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from schemas.envelope import Clock
from schemas.errors import ConfigurationError, InvalidEvent, RecordTooLarge
from schemas.locks import registry
from schemas.topics import topic_of
from streams.codec import bare_codec
from streams.producing.outgoing import PROJECT, Outgoing, address, prepare
from streams.producing.producer import Producer
from streams.replay.formats import format_named
from streams.replay.record import BadRecord, Item, MalformedRecord, Options, Recorded
from streams.settings import Settings

BATCH = 1000
_SLACK_S = 0.02
"""Paced events due within this time go in one batch."""


class Sink(Protocol):
    """Where events go: a Producer, or what a test puts in its place."""

    def emit_many(self, items: Sequence[Outgoing]) -> Awaitable[object]:
        """Write them all, in order; return when they are acknowledged."""


@dataclass
class Report:
    """What a replay did so far, or did in all. Times are event times, seconds since 1970.

    `read` counts records that gave an event or were bad: `sent` + `skipped` + those `passed_over`,
    which are events that folds alone write (by type; an export can hold them). A replay of data that
    the project already has sends as many again: the log's readers drop them by id.
    """

    format: str
    project: str
    read: int = 0
    sent: int = 0
    skipped: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    bad: list[BadRecord] = field(default_factory=list)
    """The first bad records, at most 20."""
    first_time: float | None = None
    last_time: float | None = None
    lines: int = 0
    """Lines read so far, over all files."""
    elapsed_s: float = 0.0


Progress = Callable[[Report], None]
_BAD_KEPT = 20


async def replay(
    settings: Settings,
    format: str,
    path: Path,
    *,
    project: str | None = None,
    clock: Clock = "replay",
    speed: float | None = None,
    skip_bad: bool = False,
    options: Options | None = None,
    progress: Progress | None = None,
    sink: Sink | None = None,
) -> Report:
    """Send the data set at `path` (a file or folder) into a project, by default named after the format.

    `speed` 1 paces events by their own times, N is N times as fast, None as fast as it goes. With
    `skip_bad` bad records are left out and counted. `progress` is called after every batch.
    Raises ConfigurationError, NothingToReplay, MalformedRecord (with file and line; all before it
    was sent, nothing after it), and what Producer.emit_many raises.
    """
    chosen = format_named(format)
    if speed is not None and not 0 < speed < float("inf"):
        raise ConfigurationError(f"speed {speed} is not a speed", hint="a number above 0, or max")
    report = Report(format, format if project is None else project)
    if not PROJECT.fullmatch(report.project):
        raise ConfigurationError(
            f"project {report.project!r} is not a name", hint="1 to 128 of letters, digits, '.', '_' and '-'"
        )
    driver = _Driver(settings, report, clock, skip_bad=skip_bad, pace=_Pace(speed), progress=progress)
    items = chosen.read(path, options or Options())
    if sink is not None:
        return await driver.run(items, sink)
    async with Producer(settings, source=f"replay:{format}") as producer:
        return await driver.run(items, producer)


class _Pace:
    """When an event is due, by the time of the first one; no speed means at once."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._first: float | None = None
        self._began = 0.0

    def wait_s(self, time: float) -> float:
        """Seconds from now until an event of this time is due; 0 or less where it is."""
        if self._speed is None:
            return 0.0
        if self._first is None:
            self._first, self._began = time, _time.monotonic()
        return (time - self._first) / self._speed - (_time.monotonic() - self._began)


class _Driver:
    def __init__(
        self,
        settings: Settings,
        report: Report,
        clock: Clock,
        *,
        skip_bad: bool,
        pace: _Pace,
        progress: Progress | None,
    ) -> None:
        self._report = report
        self._clock = clock
        # Only to tell which event of a batch is refused: the ids do not matter.
        self._codec = bare_codec(settings, registry())
        self._skip_bad = skip_bad
        self._pace = pace
        self._progress = progress
        self._batch: list[tuple[Recorded, Outgoing]] = []
        self._furthest: dict[Path, int] = {}
        self._began = _time.monotonic()

    async def run(self, items: Iterator[Item], sink: Sink) -> Report:
        """Send everything; returns what came of it."""
        for item in items:
            self._note(item)
            if isinstance(item, BadRecord):
                await self._refuse(item, sink)
                continue
            if not self._is_raw(item):
                continue
            wait_s = self._pace.wait_s(item.time)
            if wait_s > _SLACK_S:
                await self._send(sink)
                await asyncio.sleep(wait_s)
            try:
                self._batch.append((item, self._address(item)))
            except InvalidEvent as error:
                await self._refuse(BadRecord(item.file, item.line, error.message, item.time), sink)
            if len(self._batch) >= BATCH:
                await self._send(sink)
        await self._send(sink)
        return self._report

    def _note(self, item: Item) -> None:
        report = self._report
        report.read += 1
        further = item.line - self._furthest.get(item.file, 0)
        if further > 0:
            self._furthest[item.file] = item.line
            report.lines += further

    def _is_raw(self, item: Recorded) -> bool:
        """Whether producers may write this type; what folds made of the events they will make again."""
        if topic_of(type(item.event)).kind == "raw":
            return True
        self._report.passed_over[type(item.event).__name__] += 1
        return False

    def _address(self, item: Recorded) -> Outgoing:
        return address(
            item.event,
            item.source or f"replay:{self._report.format}",
            {
                "project": self._report.project,
                "key": item.key,
                "id": item.id,
                "time": item.time,
                "correlation_id": item.correlation_id,
                "causation_id": item.causation_id,
                "traceparent": item.traceparent,
                "subject": item.subject,
                "clock": self._clock,
            },
        )

    async def _refuse(self, bad: BadRecord, sink: Sink) -> None:
        await self._send(sink)
        if not self._skip_bad:
            raise MalformedRecord(bad)
        self._report.skipped += 1
        if len(self._report.bad) < _BAD_KEPT:
            self._report.bad.append(bad)

    async def _send(self, sink: Sink) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        try:
            await sink.emit_many([outgoing for _, outgoing in batch])
        except (InvalidEvent, RecordTooLarge):
            await self._sift(batch, sink)
            return
        report = self._report
        report.sent += len(batch)
        if report.first_time is None:
            report.first_time = batch[0][0].time
        report.last_time = batch[-1][0].time
        report.elapsed_s = _time.monotonic() - self._began
        if self._progress is not None:
            self._progress(report)

    async def _sift(self, batch: list[tuple[Recorded, Outgoing]], sink: Sink) -> None:
        """Send a batch of which an event was refused: the ones before it, and with skip_bad the rest."""
        for n, (recorded, outgoing) in enumerate(batch):
            try:
                prepare(outgoing, self._codec)
            except (InvalidEvent, RecordTooLarge) as error:
                self._batch = batch[:n]
                await self._refuse(
                    BadRecord(recorded.file, recorded.line, error.message, recorded.time), sink
                )
                self._batch = batch[n + 1 :]
                await self._send(sink)
                return
        raise ConfigurationError(
            "Kafka refused an event that is within the configured limit",
            hint="make the topic's max.message.bytes at least HEADWATER_MAX_RECORD_BYTES",
        )
