"""The process `serve` on a real socket, in a thread of its own, for clients that block."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from streams.gateway.serve import run
from streams.settings import Settings


def free_port() -> int:
    """A free port of loopback."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """`serve` with these settings on another port; gives its address."""
    moved = settings.model_copy(update={"port": free_port()})
    started = threading.Event()
    failure: list[BaseException] = []
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        started.set()
        await run(moved, stop)

    def target() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's thread
            failure.append(error)
            started.set()

    thread = threading.Thread(target=target, name="serve")
    thread.start()
    started.wait()
    try:
        for _ in range(200):
            if failure:
                raise failure[0]
            try:
                httpx.get(f"{moved.api_url}/healthz")
                break
            except httpx.TransportError:
                threading.Event().wait(0.05)
        yield moved.api_url
    finally:
        loop, stop = loops[0]
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        thread.join(10)
    assert not thread.is_alive(), "serve did not stop"
    if failure:
        raise failure[0]
