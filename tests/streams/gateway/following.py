"""A client of event streams that reconnects, and what writes events for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
from aiokafka import AIOKafkaProducer
from httpx_sse import aconnect_sse

from schemas import events as e
from schemas.codec import Codec
from schemas.envelope import to_headers
from schemas.topics import topic_of
from streams.admin import ensure_topics
from streams.kafka import client_options
from streams.producing.outgoing import address
from streams.settings import Settings

CODEC = Codec()
PAUSE_S = 0.05
"""Before a client reconnects."""


async def instance(broker: Settings, folder: Path, partitions: int = 3) -> Settings:
    """An instance of its own on a broker: topics in a namespace, a data folder."""
    own = Settings(
        data=folder,
        port=broker.port,
        kafka=broker.bootstrap,
        namespace=f"f{uuid.uuid4().hex[:8]}",
        partitions=partitions,
        raw_partitions=partitions,
    )
    await ensure_topics(own)
    return own


class Client:
    """Follows `GET /v1/events`, and reconnects after the last id as browsers do (WHATWG HTML, 9.2).

    `received` has each event with the time of its arrival. An answer other than 200 ends it, and is `refused`.
    """

    def __init__(self, url: str, key: str, /, *, last: str | None = None, **params: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.arrived: list[float] = []
        self.connections = 0
        self.reasons: list[dict[str, Any]] = []
        self.refused: httpx.Response | None = None
        self.last = last
        self._url, self._params = url, params
        self._headers = {"Authorization": f"Bearer {key}"}
        self._open = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Follow; returns once the stream is open, or refused."""
        self._task = asyncio.create_task(self._run())
        await asyncio.wait_for(self._open.wait(), 60)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()

    async def until(self, condition: Callable[[], object], timeout_s: float = 60) -> None:
        """Wait for something about what was received."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"{len(self.events)} events, {self.reasons}, {self.refused}"
            await asyncio.sleep(0.01)

    async def count(self, number: int, timeout_s: float = 60, still_s: float = 0.2) -> list[dict[str, Any]]:
        """The events once there are so many, and no more come."""
        await self.until(lambda: len(self.events) >= number, timeout_s)
        await asyncio.sleep(still_s)
        assert len(self.events) == number
        return self.events

    async def _run(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, headers=self._headers, timeout=60) as http:
            while self.refused is None:
                with contextlib.suppress(httpx.TransportError):
                    await self._connect(http)
                await asyncio.sleep(PAUSE_S)

    async def _connect(self, http: httpx.AsyncClient) -> None:
        headers = {"Last-Event-ID": self.last} if self.last is not None else {}
        async with aconnect_sse(http, "GET", "/v1/events", params=self._params, headers=headers) as source:
            if source.response.status_code != 200:
                await source.response.aread()
                self.refused = source.response
                self._open.set()
                return
            self.connections += 1
            async for message in source.aiter_sse():
                self._open.set()
                if message.event == "end":
                    self.reasons.append(message.json())
                    continue
                if message.data:
                    self.events.append(message.json())
                    self.ids.append(message.id)
                    self.arrived.append(time.time())
                    assert message.event == self.events[-1]["type"]
                self.last = message.id or self.last


def message(number: int, agent: str = "a", content: str | None = None) -> e.MessagePosted:
    """An event that says its number."""
    return e.MessagePosted(agent_id=agent, role="user", content=str(number) if content is None else content)


class Written(NamedTuple):
    """A record as any client would write it."""

    id: str
    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def records(events: Iterable[e.Event], **about: Any) -> list[Written]:
    """The records of raw events; `about` is of all their envelopes."""
    found = []
    for event in events:
        item = address(event, "test", about)  # type: ignore[arg-type]
        envelope = item.envelope
        key, topic = f"{envelope.project}/{item.key}".encode(), topic_of(type(event)).name
        found.append(Written(envelope.id, topic, key, CODEC.encode(event), to_headers(envelope)))
    return found


async def write(
    settings: Settings, written: Iterable[Written], *, transaction: str | None = None, commit: bool = True
) -> None:
    """Write records, in a transaction where one is named; without `commit` it is aborted."""
    producer = AIOKafkaProducer(**client_options(settings), transactional_id=transaction)
    await producer.start()
    try:
        if transaction is not None:
            await producer.begin_transaction()
        sent = [
            await producer.send(settings.named(p.topic), p.value, p.key, headers=p.headers) for p in written
        ]
        await asyncio.gather(*sent)
        if transaction is not None:
            await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()
