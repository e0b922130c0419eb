"""A log in memory that can be asked about the past, and the state that a view should have had then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import select

from projections.access import Caller
from projections.api import create_router
from projections.past import Past, State
from projections.position import BadToken, Position
from projections.problem import install
from projections.store import Store
from projections.view import Entry, Place
from schemas.errors import OffsetOutOfRange
from tests.projections.material import Log

Rows = dict[str, list[tuple[Any, ...]]]
PARTITIONS = 2


class MemoryLog:
    """See `projections.past.Log`. The broker stamps the entry number n at n milliseconds."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.begin: dict[Place, int] = {}
        """First offsets, of places that lost some."""
        self.read_records = self.readings = 0
        self.stamps = asyncio.Event()
        """Stamps are told from when on this is set, as it is."""
        self.stamps.set()
        self.within_s: list[float] = []
        """How long each question about stamps had."""

    async def check(self, position: Mapping[Place, int]) -> None:
        """See `projections.past.Log`."""
        for place, offset in position.items():
            if place[1] >= PARTITIONS or offset > self.log.ends.get(place, 0):
                raise BadToken("no such place", hint="send a token of ours")

    async def starts(self, topics: Iterable[str]) -> dict[Place, int]:
        """See `projections.past.Log`."""
        return {(t, p): self.begin.get((t, p), 0) for t in topics for p in range(PARTITIONS)}

    async def since(self, topics: Iterable[str], ms: int) -> dict[Place, int]:
        """See `projections.past.Log`."""
        found = {(t, p): self.log.ends.get((t, p), 0) for t in topics for p in range(PARTITIONS)}
        for number, entry in reversed(list(enumerate(self.log.entries))):
            place = entry.topic, entry.partition
            if number >= ms and place in found and entry.offset >= self.begin.get(place, 0):
                found[place] = entry.offset
        return found

    async def read(self, ranges: Mapping[Place, tuple[int, int]]) -> list[Entry]:
        """See `projections.past.Log`."""
        self.readings += 1
        for place, (begin, _) in ranges.items():
            if begin < self.begin.get(place, 0):
                raise OffsetOutOfRange("gone")
        found = [
            x
            for x in self.log.entries
            if (r := ranges.get((x.topic, x.partition))) is not None and r[0] <= x.offset < r[1]
        ]
        self.read_records += len(found)
        return found

    async def stamped(self, offsets: Mapping[Place, int], within_s: float) -> int | None:
        """See `projections.past.Log`."""
        self.within_s.append(within_s)
        await self.stamps.wait()
        latest = 0
        for place, offset in offsets.items():
            later = [
                n
                for n, x in enumerate(self.log.entries)
                if (x.topic, x.partition) == place and x.offset >= offset
            ]
            if not later:
                return None
            latest = max(latest, later[0])
        return latest


async def rows_at(past: Past, store: Store, view: str, cut: dict[Place, int]) -> Rows:
    """All rows of a view's own tables at a cut."""

    def everything(state: State) -> Rows:
        table = state.live.tables[view][view]
        state.take([tuple(r) for r in state.live.connection.execute(select(*list(table.primary_key)[:2]))])
        return {
            name: [tuple(r) for r in state.reading.connection.execute(select(t).order_by(*t.primary_key))]
            for name, t in state.reading.tables[view].items()
            if f"{name}_history" in state.reading.tables[view] and name != "reach"
        }

    return await past.ask([view], cut, everything)


def before(log: Log, cut: Mapping[Place, int]) -> list[Entry]:
    """The entries below a cut."""
    return [x for x in log.entries if x.offset < cut.get((x.topic, x.partition), 0)]


def client_of(store: Store, log: MemoryLog | None = None) -> httpx.AsyncClient:
    """A client of the query API, for the administrator."""

    async def at_once(_position: Position, _view: str, _deadline_s: float) -> None:
        return

    app = FastAPI()
    app.include_router(create_router(store, lambda: Caller("*", frozenset({"read"})), at_once, log=log))
    install(app)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")
