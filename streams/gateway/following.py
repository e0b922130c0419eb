"""GET /v1/events as a stream: a stream of `streams.following` as an answer over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
from prometheus_client import Counter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from projections.access import Caller, project_for
from projections.api.door import seconds
from projections.api.events import STREAM, EventsQuestion
from projections.columns import without_nul
from projections.problem import in_words
from schemas.errors import HeadwaterError
from streams.following.feed import Feed
from streams.following.ring import Filters
from streams.following.stream import Stalled, Stream, StreamEnded
from streams.gateway.auth import Guard
from streams.supervision.metrics import REGISTRY

STALLED_S = 30.0
"""A client that takes nothing for so long is cut off."""
GOODBYE_S = 0.3
"""So long a stream has for its last message when the server stops."""
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The second keeps nginx from gathering messages."""

HangUp = Callable[[Any], None]
log = structlog.get_logger()
_ENDED = Counter(
    "headwater_event_streams_ended",
    "Event streams that ended: client (it left), or the reason that the server had.",
    ["why"],
    registry=REGISTRY,
)


class KeyEnded(StreamEnded):
    """The key that a stream was opened with does not open it any more."""


class Following:
    """The streams of an application.

    `hang_up` ends the connection of a client by its address; the server sets it. A client that reads
    nothing would keep its connection for ever otherwise: what it was sent last waits to be taken.
    """

    def __init__(self, feed: Feed, guard: Guard) -> None:
        self.feed = feed
        self.guard = guard
        self.hang_up: HangUp = lambda _: None

    async def __call__(
        self, request: Request, caller: Caller, question: EventsQuestion, last_event_id: str | None
    ) -> Response:
        """An answer that follows. Raises Forbidden."""
        wanted = (question.topic, question.type, question.key, question.correlation_id, question.producer_key)
        filters = Filters(
            project_for(caller, question.project), *(w if w is None else without_nul(w) for w in wanted)
        )
        since = None if question.since is None else seconds(question.since)
        return _Answer(self, request, caller, filters, last_event_id, since)


class _Answer(Response):
    """Errors before the first message are answered as any other; those after it are the last message."""

    media_type = STREAM

    def __init__(
        self,
        following: Following,
        request: Request,
        caller: Caller,
        filters: Filters,
        last_event_id: str | None,
        since: float | None,
    ) -> None:
        self.status_code, self.background = 200, None
        self.init_headers(_HEADERS)
        self._following = following
        self._request = request
        self._caller = caller
        self._filters = filters
        self._begin = last_event_id, since

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the client leaves, the server stops or the stream ends."""
        feed = self._following.feed

        async def write(piece: bytes, *, more: bool = True) -> None:
            try:
                async with asyncio.timeout(STALLED_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": more})
            except TimeoutError as error:
                raise Stalled(f"nothing was taken for {STALLED_S:g} s", hint="read what is sent") from error

        stream = Stream(feed, self._filters, self._caller.key, self._check, write)
        with feed.entered(self._caller.key):
            await stream.begin(*self._begin)
            self._request.state.streamed = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            giving = asyncio.create_task(_give(stream, write))
            leaving = asyncio.create_task(_left(receive))
            stopping = asyncio.create_task(feed.stopping.wait())
            tasks = {giving, leaving, stopping}
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    await asyncio.wait(
                        {giving, leaving}, timeout=GOODBYE_S, return_when=asyncio.FIRST_COMPLETED
                    )
                why = giving.result() if giving.done() else "client" if leaving.done() else "stalled"
                if why == "stalled":
                    self._following.hang_up(scope["client"])
                    # Until the server knows: an answer without an end would look like a fault of ours.
                    await asyncio.wait({leaving}, timeout=GOODBYE_S)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        _ENDED.labels(why).inc()
        if why != "client":
            log.info("stream.ended", why=why, key_id=self._caller.key)

    def _check(self) -> None:
        refusal = self._following.guard.refusal(self._request, self._caller)
        if refusal is not None:
            raise KeyEnded(refusal, hint="resume after the last id, with a key that may read")


async def _give(stream: Stream, write: Callable[..., Awaitable[None]]) -> str:
    """Run a stream, with the reason of its end as its last message; returns the reason's name."""
    try:
        await stream.run()
    except Stalled:
        return "stalled"
    except HeadwaterError as error:
        said = in_words(type(error).__name__)
        problem = orjson.dumps(said | {"detail": error.message, "hint": error.hint})
    try:
        await write(b"event: end\ndata: %b\n\n" % problem, more=False)
    except Stalled:
        return "stalled"
    return said["type"].rpartition(":")[2]


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
