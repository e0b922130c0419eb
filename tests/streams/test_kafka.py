"""How clients reach Kafka: what is tried again, what is not, and a fault that uvloop brings to light."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.admin import ApiVersionRequest

from schemas.errors import BrokerUnavailable, ConfigurationError
from streams.kafka import patiently
from streams.settings import Settings


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (SaslAuthenticationFailed("no"), "refused the login"),
        (TopicAuthorizationFailedError("signals"), "no right to its topics"),
        (GroupAuthorizationFailedError("folds"), "no right to its consumer groups"),
    ],
)
async def test_what_no_retry_mends_is_not_tried_again(error: KafkaError, says: str) -> None:
    """It is raised at once, in words, also where aiokafka has wrapped it."""
    tried = 0

    async def attempt() -> None:
        nonlocal tried
        tried += 1
        raise KafkaError("wrapped") from error

    with pytest.raises(ConfigurationError, match=says):
        await patiently(Settings(), "trying", attempt, 30)
    assert tried == 1


async def test_what_may_pass_is_tried_until_the_deadline() -> None:
    """An attempt that hangs does not hold it up."""
    tried = 0

    async def attempt() -> None:
        nonlocal tried
        tried += 1
        if tried < 3:
            raise NodeNotReadyError("one is away")
        await asyncio.sleep(60)

    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="trying"):
        await patiently(Settings(), "trying", attempt, 1.0)
    assert tried == 3
    assert time.monotonic() - began < 3


def test_a_connection_that_was_lost_a_moment_ago() -> None:
    """Under uvloop, writing to it raises what aiokafka expects of a lost connection, not a RuntimeError."""

    async def main() -> BaseException | None:
        server = await asyncio.start_server(lambda _, __: None, "127.0.0.1", 0)
        connection = AIOKafkaConnection("127.0.0.1", server.sockets[0].getsockname()[1])
        connection._do_version_lookup = lambda: asyncio.sleep(0)  # nobody there speaks Kafka
        await connection.connect()
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        assert connection._writer is not None, "aiokafka has noticed already: this shows nothing"
        try:
            connection.send(ApiVersionRequest())
        except RuntimeError as error:  # aiokafka's errors are some
            return error
        finally:
            server.close()
        return None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        raised = runner.run(main())
    assert isinstance(raised, KafkaConnectionError)
