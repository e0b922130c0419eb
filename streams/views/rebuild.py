"""`views list` and `views rebuild`: a view made anew beside the live one, then put in its place."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from projections.catalog import usable as catalog
from projections.catalog import view_named
from projections.generations import lacking
from projections.store import Store, ViewNotReady
from projections.trouble import TROUBLE, explaining
from projections.view import Place, View
from streams.codec import codec_of
from streams.settings import Settings
from streams.views.source import Decoder, Source, partition_counts, view_source

NEAR = 20_000
"""So many offsets behind, the rebuild asks the live view to wait, and overtakes it."""
HOLD_S = 10.0
"""A rebuild that died holds the live view back no longer than this."""
READERS_S = 1.0
"""What a rebuild replaced is dropped after this: a query that began before may still read it."""

log = structlog.get_logger()
Progress = Callable[[int, int], None]
"""(offsets read, offsets in the log) from time to time."""


@dataclass(frozen=True)
class ViewInfo:
    """A view as `views list` shows it. `offsets` are the next to be read, by (topic, partition)."""

    name: str
    about: str
    topics: tuple[str, ...]
    version: int
    state: Literal["live", "rebuilding", "missing"]
    generation: int | None
    offsets: dict[Place, int]


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild did."""

    name: str
    generation: int
    events: int
    skipped: int
    seconds: float


def list_views(settings: Settings) -> list[ViewInfo]:
    """Every view of the catalog, with what it reflects; reads SQL only."""
    views = catalog()
    store = Store(settings.database_url, views)
    try:
        with explaining(store.url):
            return [_info(store, view) for view in views]
    finally:
        store.close()


def _info(store: Store, view: View) -> ViewInfo:
    topics = tuple(topic.name for topic in view.topics)
    try:
        generation, offsets = store.live(view.name)
        building = any(state == "building" for _, _, state in store.states(view.name))
    except ViewNotReady:
        return ViewInfo(view.name, view.about, topics, view.version, "missing", None, {})
    state: Literal["live", "rebuilding"] = "rebuilding" if building else "live"
    return ViewInfo(view.name, view.about, topics, view.version, state, generation, offsets)


async def rebuild(
    settings: Settings, name: str, *, view: View | None = None, progress: Progress | None = None
) -> Rebuilt:
    """Replay the log into fresh tables and swap them in; the live process may run meanwhile.

    Answers never go back: the swap waits until the new tables reflect what the live ones do.
    Raises ConfigurationError for an unknown view, BrokerUnavailable, DatabaseUnavailable, ViewMoved
    where another rebuild of the view began. Whatever it raises, the live view is as it was.
    """
    view = view or view_named(name)
    started = time.monotonic()
    counts = await partition_counts(settings, view.topics)
    store = Store(settings.database_url, [view])
    source = view_source(settings, view, counts)
    try:
        with explaining(store.url):
            generation = await asyncio.to_thread(store.begin_build, view.name)
            try:
                await source.open({})
                events, skipped = await _replay(settings, store, view.name, source, generation, progress)
            except BaseException:
                with contextlib.suppress(*TROUBLE):  # the next rebuild drops it
                    await asyncio.to_thread(store.drop_build, view.name, generation)
                    await asyncio.to_thread(store.hold, view.name, 0)
                raise
            await asyncio.sleep(READERS_S)
            await asyncio.to_thread(store.drop_retired, view.name)
    finally:
        await source.close()
        store.close()
    return Rebuilt(view.name, generation, events, skipped, time.monotonic() - started)


async def _replay(
    settings: Settings,
    store: Store,
    name: str,
    source: Source,
    generation: int,
    progress: Progress | None,
) -> tuple[int, int]:
    decoder = Decoder(await codec_of(settings), keep_bytes=0)
    events = skipped = 0
    begin = sum(source.position.values())
    final: dict[Place, int] | None = None
    while True:
        batch = await source.batch()
        if batch.end:
            await decoder.learn(batch.records)
            entries, undecodable = await asyncio.to_thread(decoder.entries, batch.records)
            no_events = [u.record for u in undecodable]
            refused = await asyncio.to_thread(
                store.apply, name, generation, entries, batch.start, batch.end, no_events
            )
            events += len(entries) - len(refused)
            skipped += len(undecodable) + len(refused)
        if progress is not None:
            read = sum(source.position.values()) - begin
            progress(read, read + source.lag)
        if source.lag > NEAR:
            continue
        await asyncio.to_thread(store.hold, name, HOLD_S)
        ends = await source.ends()
        final = final or ends
        if lacking(source.position, final):
            continue
        # False while the live view, that stands still now, is ahead.
        if await asyncio.to_thread(store.swap, name, generation, ends):
            log.info("view.rebuilt", view=name, generation=generation, events=events, skipped=skipped)
            return events, skipped
