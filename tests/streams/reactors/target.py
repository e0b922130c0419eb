"""A real HTTP server that acts, fails, hangs and dies as its path says, and keeps what it was sent.

Run as a process it notes the idempotency key of each message in a file before it answers: what was
acted on survives the death of who had asked.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple


class Message(NamedTuple):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float


class Target:
    """`answers` maps a path to the statuses of its next requests; the last one stays. 200 by default."""

    def __init__(self, journal: Path | None = None) -> None:
        self.messages: list[Message] = []
        self.answers: dict[str, list[int]] = {}
        self.headers: dict[str, str] = {}
        self.port = 0
        self.arrived = asyncio.Event()
        self._journal = journal.open("a", buffering=1) if journal is not None else None
        self._handlers: set[asyncio.Task[None]] = set()

    def url(self, path: str = "/ok") -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}{path}"

    def sent_to(self, path: str) -> list[Message]:
        """Messages of one path."""
        return [m for m in self.messages if m.path == path]

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Target]:
        """Listen on loopback."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for handler in list(self._handlers):
                handler.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        path = head[0].split(" ")[1]
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.messages.append(Message(path, headers, body, asyncio.get_running_loop().time()))
        self.arrived.set()
        if self._journal is not None:
            self._journal.write(f"{path} {headers['idempotency-key']}\n")
        kind = path.split("/")[1]
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "slow":
            await asyncio.sleep(float(path.split("/")[2]))
        if kind == "cut":
            return False  # acted, and the connection ends without an answer
        if kind == "drip":
            for byte in b"HTTP/1.1 200 OK\r\nX-Drip: ":
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.3)
            await asyncio.sleep(3600)
        if kind == "endless":
            status = path.split("/")[2]
            writer.write(f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            while True:
                writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0.001)
        answers = self.answers.get(path, [200])
        status = str(answers.pop(0) if len(answers) > 1 else answers[0])
        more = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{more}Content-Length: 4\r\n\r\nsaid".encode())
        await writer.drain()
        return True


async def main(port: int, journal: Path) -> None:
    """Serve until killed."""
    async with Target(journal).running(port):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
