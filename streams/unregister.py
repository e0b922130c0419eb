"""Kafka's request UnregisterBroker, which aiokafka lacks, sent to a controller.

A node that was killed starts as the leader that its metadata says it still is. Kafka 4.3 then aborts
and completes transactions before anyone can reach it, finds itself without a leader when it registers
anew, takes partitions without a leader for deleted ones, and skips their markers: the records of an
aborted transaction get committed with the next one of the same producer. A node whose old
registration was taken back first starts as the leader of nothing, and all of that waits until it serves.
"""

from __future__ import annotations

import asyncio
import time

from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.types import Int32

from schemas.errors import BrokerUnavailable
from streams.protocol import ERROR, TEXT, request

_DONE = {0, 102}
"""No error, and BROKER_ID_NOT_REGISTERED."""
_unregister = request(64, 0, [("broker_id", Int32)], [*ERROR, ("error_message", TEXT)])


async def unregister(port: int, node: int, deadline_s: float) -> None:
    """Take broker `node`'s registration back at loopback's controller, which may still be starting.

    Raises BrokerUnavailable where it has not agreed after `deadline_s`.
    """
    deadline = time.monotonic() + deadline_s
    answer: object = "no answer"
    while time.monotonic() < deadline:
        try:
            connection = await create_conn("127.0.0.1", port, request_timeout_ms=2_000)
            try:
                response = await connection.send(_unregister(node))
            finally:
                connection.close()
        except (KafkaError, OSError, TimeoutError) as error:
            answer = repr(error)
        else:
            if response.error_code in _DONE:
                return
            answer = f"error {response.error_code}: {response.error_message}"
        await asyncio.sleep(0.05)
    raise BrokerUnavailable(
        f"the embedded broker was killed, and its controller did not take it back within {deadline_s:.0f} s: "
        f"{answer}",
        hint="start again; see the broker's log",
    )
