"""What an agent imports: `Headwater` for asyncio, `SyncHeadwater` for everything else.

    async with Headwater() as hw:
        async with hw.run("sofia", task="find a flight") as run:
            async with hw.tool_call("web_search", {"q": "LIS-BER"}) as call:
                call.result = await search("LIS-BER")
            await hw.message("There is one at 09:40.")
            run.finish(score=1.0)

An event is acknowledged by Kafka when its call returns. What is emitted inside `run` shares its
correlation id, is caused by what it is nested in, and is a span of its trace.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import structlog

from schemas.errors import HeadwaterError
from streams.producing.calls import Calls
from streams.producing.outgoing import Outgoing, Position
from streams.producing.producer import Producer
from streams.producing.scopes import LlmCall, Run, Scope, ToolCall
from streams.settings import Settings, load

__all__ = ["Emitted", "Headwater", "LlmCall", "Run", "SyncHeadwater", "ToolCall"]

log = structlog.get_logger()
T = TypeVar("T")
S = TypeVar("S", bound=Scope)


class Emitted(NamedTuple):
    """Where an event stands in the log, and its id, which `cause=` of a later one takes."""

    topic: str
    partition: int
    offset: int
    id: str

    @property
    def position(self) -> Position:
        """Without the id."""
        return Position(self.topic, self.partition, self.offset)


class Headwater(
    Calls[
        Coroutine[Any, Any, Emitted],
        Coroutine[Any, Any, list[Emitted]],
        AbstractAsyncContextManager[Run],
        AbstractAsyncContextManager[ToolCall],
        AbstractAsyncContextManager[LlmCall],
    ]
):
    """The SDK for asyncio. Settings are those of the environment unless given.

    `deadline_s`: how long a call may go without an acknowledgement before it raises
    BrokerUnavailable, which says what was not acknowledged.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        project: str = "default",
        source: str = "sdk",
        deadline_s: float = 30.0,
    ) -> None:
        super().__init__(project, source)
        self._producer = Producer(settings or load(), source=source, deadline_s=deadline_s)

    @property
    def producer(self) -> Producer:
        """What writes its events."""
        return self._producer

    @classmethod
    async def connect(cls, settings: Settings | None = None, **options: Any) -> Self:
        """A connected one; keywords as the class takes them. Raises BrokerUnavailable after the deadline."""
        connected = cls(settings, **options)
        await connected._producer.start()
        return connected

    async def flush(self) -> None:
        """Wait until everything emitted so far, by any task, is acknowledged or has failed."""
        await self._producer.flush()

    async def close(self) -> None:
        """Flush and disconnect."""
        await self._producer.stop()

    async def __aenter__(self) -> Self:
        await self._producer.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, item: Outgoing) -> Emitted:
        return (await self._send_many([item]))[0]

    async def _send_many(self, items: list[Outgoing]) -> list[Emitted]:
        positions = await self._producer.emit_many(items)
        return [Emitted(*at, item.envelope.id) for item, at in zip(items, positions, strict=True)]

    @asynccontextmanager
    async def _within(self, scope: S) -> AsyncIterator[S]:
        first = scope.begin()
        try:
            await self._send(self._as_told(first))
            try:
                yield scope
            except BaseException as error:
                try:
                    await self._send(self._as_told(scope.end(error)))
                except HeadwaterError as second:
                    _unsent(error, second)
                raise
            await self._send(self._as_told(scope.end(None)))
        finally:
            scope.leave()


class SyncHeadwater(
    Calls[
        Emitted,
        list[Emitted],
        AbstractContextManager[Run],
        AbstractContextManager[ToolCall],
        AbstractContextManager[LlmCall],
    ]
):
    """The same for code without asyncio: calls block. May be used from several threads.

    It has an event loop in a thread of its own. A new thread begins outside of every run: start it
    with `contextvars.copy_context().run` to go on in the run of the thread that starts it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        project: str = "default",
        source: str = "sdk",
        deadline_s: float = 30.0,
    ) -> None:
        super().__init__(project, source)
        self._options: dict[str, Any] = {"project": project, "source": source, "deadline_s": deadline_s}
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._inner: Headwater | None = None

    @classmethod
    def connect(cls, settings: Settings | None = None, **options: Any) -> Self:
        """A connected one; keywords as the class takes them. Raises BrokerUnavailable after the deadline."""
        connected = cls(settings, **options)
        connected._start()
        return connected

    def flush(self) -> None:
        """Wait until everything emitted so far, by any thread, is acknowledged or has failed."""
        self._wait(self._connected().flush())

    def close(self) -> None:
        """Flush, disconnect, and end the thread. A second time it does nothing."""
        inner, self._inner = self._inner, None
        try:
            if inner is not None:
                self._wait(inner.close())
        finally:
            self._end_thread()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, item: Outgoing) -> Emitted:
        return self._wait(self._connected()._send(item))  # noqa: SLF001 - the same module

    def _send_many(self, items: list[Outgoing]) -> list[Emitted]:
        return self._wait(self._connected()._send_many(items))  # noqa: SLF001 - the same module

    @contextmanager
    def _within(self, scope: S) -> Iterator[S]:
        first = scope.begin()
        try:
            self._send(self._as_told(first))
            try:
                yield scope
            except BaseException as error:
                try:
                    self._send(self._as_told(scope.end(error)))
                except HeadwaterError as second:
                    _unsent(error, second)
                raise
            self._send(self._as_told(scope.end(None)))
        finally:
            scope.leave()

    def _start(self) -> None:
        if self._inner is not None:
            raise HeadwaterError("this is connected already", hint="connect once, then share it")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="headwater", daemon=True)
        self._thread.start()
        try:
            self._inner = self._wait(Headwater.connect(self._settings, **self._options))
        except BaseException:
            self._end_thread()
            raise

    def _connected(self) -> Headwater:
        if self._inner is None:
            raise HeadwaterError("this is not connected", hint="use it in a `with` block, or `connect()`")
        return self._inner

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C while waiting: what was not sent yet shall not be
            raise

    def _end_thread(self) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._loop = self._thread = None


def _unsent(error: BaseException, second: HeadwaterError) -> None:
    """The body's exception goes on; that its event was not written is said beside it."""
    log.warning("sdk.end_not_written", why=str(second), during=repr(error))
    error.add_note(f"the event that says so was not written: {second}")
