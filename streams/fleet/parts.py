"""Our codec and topics for anybody's Faust app, and the settings with which Faust loses nothing.

app = faust.App("mine", **faust_options(Settings()))
inbox = topic(app, Settings(), "fleet.inbox")

@app.agent(inbox)
async def mine(stream):
async for event in stream: ...      # our events, decoded
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

import faust
from faust.serializers.codecs import Codec as FaustCodec
from faust.serializers.codecs import register

from schemas import catalog
from schemas.codec import Codec, Record
from schemas.errors import ConfigurationError
from schemas.events import Event
from streams.codec import codec_of
from streams.kafka import client_options
from streams.settings import Settings

T = TypeVar("T")
CODEC = "headwater"
"""Name of the codec in Faust: `value_serializer=CODEC`."""
SESSION_S = 10.0
"""A host that died is replaced after this."""


class HeadwaterCodec(FaustCodec):
    """Events to and from Avro in Confluent framing, with the schema ids of `settings`, by default the environment's.

    Raises what `schemas.codec.Codec` raises, and at its first use what `streams.codec.codec_of` does.
    """

    def __init__(self, children: Any = None, *, settings: Settings | None = None, **kwargs: Any) -> None:
        super().__init__(children, settings=settings, **kwargs)
        self._settings = settings

    @cached_property
    def _codec(self) -> Codec:
        return _wait(codec_of(self._settings or Settings()))

    def _loads(self, s: bytes) -> Event:
        if not self._codec.knows(int.from_bytes(s[1:5])):
            _wait(self._codec.learn([Record("", 0, 0, 0.0, None, s, ())]))
        return self._codec.decode(s)

    def _dumps(self, s: Any) -> bytes:
        return self._codec.encode(s)


def _wait(question: Coroutine[Any, Any, T]) -> T:
    """The answer, for Faust's codecs cannot await: in a thread, since a loop runs in this one."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, question).result()


register(CODEC, HeadwaterCodec())


def topic(app: faust.App, settings: Settings, name: str) -> faust.TopicT:
    """One of our topics for a Faust app: keys as bytes, values as events.

    Raises ConfigurationError for one that is not ours, or that is written by transactions.
    """
    known = catalog.topics().get(name)
    if known is None:
        raise ConfigurationError(f"there is no topic {name}", hint=f"one of {', '.join(catalog.topics())}")
    if known.kind not in ("raw", "inbox"):
        raise ConfigurationError(
            f"topic {name} is written by transactions, and a Faust agent that follows it loses its place: Faust "
            "reads uncommitted records, and its offsets stop at the first commit marker",
            hint="follow fleet.inbox, which has copies of assignments, or use the SDK's tail for findings",
        )
    return app.topic(
        settings.named(name), key_serializer="raw", value_serializer=HeadwaterCodec(settings=settings)
    )


def faust_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of `faust.App`, each against one of its known faults. Makes the data folder."""
    options = client_options(settings)
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "broker": ";".join(f"kafka://{host}" for host in settings.bootstrap.split(",")),
        "store": "memory://",
        # Made at every start, whatever is kept: by default in the working folder.
        "datadir": str(settings.data / "faust"),
        "autodiscover": False,
        "web_enabled": False,
        "consumer_auto_offset_reset": "earliest",
        # Topics are declared and made by `headwater topics create`; no leader, no internal topic.
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        # A rebalance does not wait for handlers: one of 20 s would hold up everybody.
        "stream_wait_empty": False,
        # Well below the buffer, or a full one stops the consumer for good.
        "stream_buffer_maxsize": 4_096,
        "broker_max_poll_records": 100,
        # A worker without partitions is otherwise thrown out, and never comes back.
        "broker_max_poll_interval": 24 * 3600.0,
        "broker_session_timeout": SESSION_S,
        "broker_heartbeat_interval": SESSION_S / 5,
        "broker_commit_interval": 1.0,
        # Its own watch over slow streams only logs; ours restarts.
        "stream_processing_timeout": 24 * 3600.0,
        "broker_commit_livelock_soft_timeout": 24 * 3600.0,
    }
    if settings.kafka_security.startswith("SASL"):
        found["broker_credentials"] = faust.SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=options.get("ssl_context"),
        )
    elif "ssl_context" in options:
        found["broker_credentials"] = faust.SSLCredentials(options["ssl_context"])
    return found
