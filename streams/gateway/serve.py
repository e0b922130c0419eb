"""The process `serve`: the HTTP application on loopback, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import structlog
import uvicorn

from projections.database import check
from projections.trouble import DatabaseUnavailable
from schemas.errors import ConfigurationError
from streams.codec import bare_codec, ids_of
from streams.gateway.app import create_app
from streams.settings import Settings
from streams.supervision.instance import describe, listener
from streams.supervision.status import ProcessStatus

HOST = "127.0.0.1"
_REPORT_S = 1.0
_GRACE_S = 2
_MOST_CONNECTIONS = 1000

log = structlog.get_logger()


class _Server(uvicorn.Server):
    """Leaves signals to the process's host, and can end a connection without waiting for its client."""

    def hang_up(self, client: Any) -> None:
        """End the connection of a client, known by its address."""
        for connection in list(self.server_state.connections):
            if getattr(connection, "client", None) == client:
                connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve HTTP on 127.0.0.1 until `stop`; open requests get two seconds to end.

    Raises ConfigurationError where the port is taken or the views' database will not have us, and as
    `streams.codec.ids_of`.
    """
    status = ProcessStatus(settings, "serve")
    try:
        await asyncio.to_thread(check, settings.database_url)
    except DatabaseUnavailable as error:  # it may come: until then there is 503
        log.warning("serve.no_database", why=str(error))
    with _bound(settings.port) as listening:
        app = create_app(settings, bare_codec(settings, await ids_of(settings)))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # streams.gateway.correlation logs each request
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=_GRACE_S,
            limit_concurrency=_MOST_CONNECTIONS,
        )
        server = _Server(config)
        app.state.following.hang_up = server.hang_up
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set() and not serving.done():
                if server.started:
                    status.set("running", url=settings.api_url, requests=server.server_state.total_requests)
                await asyncio.wait(
                    {serving, stopping},
                    timeout=_REPORT_S if server.started else 0.01,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            status.set("stopping")
        finally:
            stopping.cancel()
            app.state.following.feed.stop()
            server.should_exit = True
            await serving


@contextlib.contextmanager
def _bound(port: int) -> Iterator[socket.socket]:
    """A listening socket on loopback; uvicorn's own way of failing would end the process."""
    with contextlib.closing(socket.socket()) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((HOST, port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port}, wanted by the HTTP API, is in use by {describe(listener(port))}",
                hint="stop that, or set HEADWATER_PORT to another base",
            ) from error
        yield s
