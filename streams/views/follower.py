"""The process `views`: each view follows the log on its own, a batch being one SQL transaction."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog
from aiokafka.errors import KafkaError
from prometheus_client import Counter, Gauge

from projections.catalog import views as catalog
from projections.database import check
from projections.store import Store, ViewHeld, ViewMoved, ViewNotReady
from projections.trouble import TROUBLE, explained, explaining
from projections.view import Entry, View
from schemas.codec import Record
from schemas.errors import ConfigurationError, HeadwaterError, OffsetOutOfRange
from streams.codec import codec_of
from streams.settings import Settings
from streams.supervision.metrics import REGISTRY
from streams.supervision.status import ProcessStatus
from streams.views.rebuild import ViewInfo, list_views, rebuild
from streams.views.source import Batch, Decoder, partition_counts, view_source

__all__ = ["Follower", "ViewInfo", "list_views", "rebuild", "run"]

T = TypeVar("T")
REPORT_S = 1.0
HELD_S = 0.05
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
_SHOWN = 10
RETRIED = (KafkaError, OSError, *TROUBLE, HeadwaterError)

log = structlog.get_logger()
_EVENTS = Counter("headwater_view_events", "Records applied to a view.", ["view"], registry=REGISTRY)
_SKIPPED = Counter(
    "headwater_view_skipped", "Records that a view could not take.", ["view"], registry=REGISTRY
)
_SECONDS = Counter("headwater_view_apply_seconds", "Time in decoding and SQL.", ["view"], registry=REGISTRY)
_LAG = Gauge("headwater_view_lag", "Records that a view has not read yet.", ["view"], registry=REGISTRY)


class Follower:
    """Keeps one view up to date until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        view: View,
        store: Store,
        counts: dict[str, int],
        executor: ThreadPoolExecutor,
        decoder: Decoder,
    ) -> None:
        self.view = view
        self.events = self.skipped = 0
        self.lag: int | None = None
        self.error: str | None = None
        self._settings = settings
        self._store = store
        self._counts = counts
        self._executor = executor
        self._decoder = decoder
        self._pause_s = FIRST_PAUSE_S

    @property
    def facts(self) -> dict[str, Any]:
        """How it is doing, for the process's status."""
        return {"events": self.events, "lag": self.lag, "skipped": self.skipped, "error": self.error}

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the log; what a retry can mend is retried, and said in the log."""
        while not stop.is_set():
            try:
                await self._session(stop)
            except ViewMoved as error:
                log.info("view.moved", view=self.view.name, why=str(error))
                await _pause(stop, HELD_S)  # two writers would move each other without end
            except OffsetOutOfRange as error:
                self.error = str(error)
                log.error("view.stopped", view=self.view.name, why=str(error))  # noqa: TRY400 - it is no fault of code
                await self._until_rebuilt(stop)
            except ConfigurationError:
                raise
            except RETRIED as error:
                self.error = _said(error, self._store)
                log.warning("view.retry", view=self.view.name, why=self.error, in_s=self._pause_s)
                await _pause(stop, self._pause_s)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                if isinstance(error, ViewNotReady):  # the database was emptied, or is another one
                    with contextlib.suppress(*RETRIED):
                        await self._thread(lambda: self._store.prepare(replace=False))

    async def _session(self, stop: asyncio.Event) -> None:
        generation, offsets = await self._thread(lambda: self._store.live(self.view.name))
        source = view_source(self._settings, self.view, self._counts)
        silent = False
        try:
            await source.open(offsets)
            log.info("view.follows", view=self.view.name, generation=generation, lag=source.lag)
            while not stop.is_set():
                batch = await source.batch()
                if batch.end:
                    await self._decoder.learn(batch.records)
                    await self._apply(generation, batch, stop)
                self.lag = source.lag
                if silent != (source.silent_s > 5):
                    silent = not silent
                    log.warning("view.kafka_silent" if silent else "view.kafka_back", view=self.view.name)
                if not silent:
                    self.error = None
                    self._pause_s = FIRST_PAUSE_S
        finally:
            await source.close()

    async def _apply(self, generation: int, batch: Batch, stop: asyncio.Event) -> None:
        """Apply a batch, however long SQL takes to be well again."""
        pause_s = FIRST_PAUSE_S
        while not stop.is_set():
            try:
                await self._thread(lambda: self._apply_once(generation, batch))
            except ViewHeld:
                await _pause(stop, HELD_S)
            except TROUBLE as error:
                self.error = _said(error, self._store)
                log.warning("view.sql_retry", view=self.view.name, why=self.error, in_s=pause_s)
                await _pause(stop, pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                return

    def _apply_once(self, generation: int, batch: Batch) -> None:
        started = time.perf_counter()
        entries, undecodable = self._decoder.entries(batch.records)
        refused = self._store.apply(
            self.view.name, generation, entries, batch.start, batch.end, [u.record for u in undecodable]
        )
        bad: list[tuple[Record | Entry, Exception]] = [
            *((u.record, u.error) for u in undecodable),
            *((r.entry, r.error) for r in refused),
        ]
        if bad:
            shown = [f"{at.topic}/{at.partition}/{at.offset}: {why}" for at, why in bad[:_SHOWN]]
            log.warning("view.skipped", view=self.view.name, records=len(bad), positions=shown)
            _SKIPPED.labels(self.view.name).inc(len(bad))
        self.skipped += len(bad)
        self.events += len(batch.records) - len(bad)
        _EVENTS.labels(self.view.name).inc(len(batch.records) - len(bad))
        _SECONDS.labels(self.view.name).inc(time.perf_counter() - started)

    async def _until_rebuilt(self, stop: asyncio.Event) -> None:
        """The log cannot give what the view needs: only a rebuild helps."""
        before = await self._thread(lambda: self._store.live(self.view.name))
        while not stop.is_set() and before == await self._thread(lambda: self._store.live(self.view.name)):
            await _pause(stop, 2.0)

    async def _thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


async def run(settings: Settings, stop: asyncio.Event, views: Sequence[View] | None = None) -> None:
    """The `views` process: follows all views (of the catalog, unless given) until `stop`.

    Raises ConfigurationError where a topic is missing, or Kafka or the database will not have us.
    """
    views = catalog() if views is None else views
    status = ProcessStatus(settings, "views")
    status.set("starting")
    store = Store(settings.database_url, views)
    with ThreadPoolExecutor(len(views) + 1, "views") as executor:
        try:
            loop = asyncio.get_running_loop()
            topics = {topic.name: topic for view in views for topic in view.topics}
            counts = await _persist(stop, status, store, lambda: partition_counts(settings, topics.values()))
            await _persist(stop, status, store, lambda: asyncio.to_thread(check, store.url))
            await _persist(stop, status, store, lambda: loop.run_in_executor(executor, store.prepare))
            codec = await _persist(stop, status, store, lambda: codec_of(settings))
            if counts is None or codec is None:
                return
            decoder = Decoder(codec)
            followers = [Follower(settings, view, store, counts, executor, decoder) for view in views]
            try:
                async with asyncio.TaskGroup() as tasks:
                    for follower in followers:
                        tasks.create_task(follower.run(stop), name=f"view {follower.view.name}")
                    tasks.create_task(_report(status, followers, stop))
            except* ConfigurationError as refusals:
                raise refusals.exceptions[0] from None  # each view says the same
            status.set("stopping")
        finally:
            store.close()


def _said(error: Exception, store: Store) -> str:
    """An error as the status shows it."""
    return str(explained(store.url, error) if isinstance(error, TROUBLE) else error)


async def _persist(
    stop: asyncio.Event, status: ProcessStatus, store: Store, attempt: Callable[[], Awaitable[T]]
) -> T | None:
    """Repeat what fails in passing, and say it; None where `stop` came first."""
    pause_s = FIRST_PAUSE_S
    while not stop.is_set():
        try:
            with explaining(store.url):
                return await attempt()
        except (KafkaError, OSError, HeadwaterError) as error:
            if isinstance(error, HeadwaterError) and not error.retriable:
                raise
            status.set("starting", error=str(error))
            log.warning("views.retry", why=str(error), in_s=pause_s)
            await _pause(stop, pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return None


async def _report(status: ProcessStatus, followers: Sequence[Follower], stop: asyncio.Event) -> None:
    while True:
        for follower in followers:
            if follower.lag is not None:
                _LAG.labels(follower.view.name).set(follower.lag)
        status.set(
            "running", error=None, views={follower.view.name: follower.facts for follower in followers}
        )
        if stop.is_set():
            return
        await _pause(stop, REPORT_S)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not longer than until `stop`."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
