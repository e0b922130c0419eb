"""Two ways in which uvloop ends connections otherwise than asyncio, and aiokafka is not prepared for.

`mend` changes aiokafka's class once; `streams.kafka`, which makes the options of every client, calls it.
"""

from __future__ import annotations

import functools
from typing import Any

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError, KafkaError


@functools.cache
def mend() -> None:
    """Make aiokafka's connections behave on uvloop as they do on asyncio."""
    _raise_what_aiokafka_expects()
    _close_without_farewell()


def _raise_what_aiokafka_expects() -> None:
    """Writing to a connection that was lost a moment ago: asyncio ignores it, uvloop raises RuntimeError.

    aiokafka takes that for a fault of its own: its fetcher, for example, ends for good, in silence.
    """
    send = AIOKafkaConnection.send

    @functools.wraps(send)
    def sending(self: AIOKafkaConnection, *args: Any, **options: Any) -> Any:
        try:
            return send(self, *args, **options)
        except RuntimeError as error:
            if isinstance(error, KafkaError):
                raise
            raise KafkaConnectionError(f"{self.host}:{self.port}: {error}") from error

    AIOKafkaConnection.send = sending


def _close_without_farewell() -> None:
    """Closing TLS while an answer is on its way: uvloop waits 30 s for the other side's farewell.

    Every restore reads by a client of its own, and would take that much longer. What is awaited was
    answered or has failed by then, so nothing is lost by closing at once.
    """
    close = AIOKafkaConnection.close

    @functools.wraps(close)
    def closing(self: AIOKafkaConnection, *args: Any, **options: Any) -> Any:
        writer = self._writer
        closed = close(self, *args, **options)
        if writer is not None and self._security_protocol.endswith("SSL"):
            writer.transport.abort()
        return closed

    AIOKafkaConnection.close = closing
