"""The process `serve`: starts, says so, stops in time, and refuses a taken port."""

from __future__ import annotations

import asyncio
import socket
import time

import httpx
import pytest

from schemas.errors import ConfigurationError
from streams.gateway.serve import run
from streams.settings import Settings
from streams.supervision.status import read_all
from tests.streams.gateway.serving import free_port, serving


def test_it_serves_loopback_alone(settings: Settings) -> None:
    """While it runs it answers on 127.0.0.1, and says that it runs; other addresses do not answer."""
    with serving(settings) as url:
        assert httpx.get(f"{url}/healthz").status_code == 200
        status = read_all(settings)["serve"]
        assert (status["state"], status["facts"]["url"]) == ("running", url)
        port = int(url.rpartition(":")[2])
        with socket.socket() as s, pytest.raises(OSError, match="refused"):
            s.connect(("127.0.0.2", port))
    assert read_all(settings)["serve"]["state"] == "stopping"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


async def test_a_taken_port_is_named(settings: Settings) -> None:
    """ConfigurationError with the port and what to do."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        taken = settings.model_copy(update={"port": s.getsockname()[1]})
        with pytest.raises(ConfigurationError, match=rf"port {taken.port}.*HEADWATER_PORT"):
            await run(taken, asyncio.Event())


async def test_it_stops_in_time_with_connections_open(settings: Settings) -> None:
    """An idle connection that a client keeps does not hold up the end."""
    moved = settings.model_copy(update={"port": free_port()})
    stop = asyncio.Event()
    task = asyncio.create_task(run(moved, stop))
    async with httpx.AsyncClient(base_url=moved.api_url) as http:
        for _ in range(100):
            try:
                await http.get("/healthz")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.05)
        stop.set()
        started = time.monotonic()
        await asyncio.wait_for(task, 5)
    assert time.monotonic() - started < 3
