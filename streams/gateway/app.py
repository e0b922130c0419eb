"""The HTTP application: every door on one port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from projections import problem
from projections.api import create_router
from projections.catalog import views
from projections.store import Store
from schemas.codec import Codec
from schemas.errors import ConfigurationError
from streams.following.feed import Feed
from streams.gateway import health, produce, registry, webhooks
from streams.gateway.auth import Guard
from streams.gateway.body import BodyTooSlow, NotJson, UnsupportedMediaType
from streams.gateway.correlation import Correlation
from streams.gateway.document import describe_events
from streams.gateway.following import Following
from streams.gateway.quotas import Quotas
from streams.keys import Keyring, admin_key
from streams.keys.uses import Uses
from streams.producing.producer import Producer
from streams.reactors.addresses import AddressRefused
from streams.settings import Settings
from streams.views.past import KafkaPast
from streams.views.positions import Freshness
from streams.views.positions_kafka import KafkaOffsets

DEADLINE_S = 5.0
"""How long a request may wait for Kafka's acknowledgement before it is answered with 503."""
_ABOUT = """\
Events in, answers out. Every call under `/v1` carries an API key: `Authorization: Bearer <key>`.
Errors are `application/problem+json` (RFC 9457). Lists come in pages: follow `next`.
An answer says in `position` what it reflects; send a token as `at_least` to see no older one.
With `Accept: text/event-stream`, `GET /v1/events` gives each event as it comes."""


def create_app(settings: Settings, codec: Codec) -> FastAPI:
    """The gateway of one instance. Connects to Kafka and the views' database when first needed.

    `codec` has the schema ids in force; they are compared with the log's before the first event is written.
    `state.following` has the event streams, for the server to end them when it stops.

    Raises ConfigurationError where the API key cannot be made or read.
    """
    admin_key(settings)
    keyring, uses = Keyring(settings), Uses(settings)
    guard = Guard(keyring, uses)
    producer = Producer(settings, source="http", deadline_s=DEADLINE_S, codec=codec)
    known = views()
    store = Store(settings.database_url, known)
    offsets = KafkaOffsets(settings, [topic for view in known for topic in view.topics])
    following = Following(Feed(settings, offsets), guard)
    past = KafkaPast(settings, offsets, codec)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        keeping = asyncio.create_task(uses.keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.to_thread(uses.flush)
            await following.feed.close()
            await producer.stop()
            await past.close()
            await offsets.close()
            store.close()

    app = FastAPIOffline(
        title="Headwater",
        version=version("headwater"),
        description=_ABOUT,
        lifespan=lifespan,
        redoc_url=None,
        static_url="/docs-static",
    )
    app.state.following = following
    app.add_middleware(Correlation)
    problem.install(
        app,
        {
            NotJson: 400,
            produce.BadBody: 400,
            BodyTooSlow: 408,
            UnsupportedMediaType: 415,
            # A topic is missing, or Kafka gives no right: nobody who calls can mend it, someone will.
            ConfigurationError: 503,
            AddressRefused: 422,
        },
    )
    quotas = Quotas(settings, keyring)
    app.include_router(produce.routes(producer, guard, quotas))
    app.include_router(webhooks.routes(producer, guard, store, quotas))
    app.include_router(create_router(store, guard.caller, Freshness(store, offsets), following, past))
    app.include_router(registry.routes(codec.registry, guard))
    app.include_router(health.routes(settings, guard))
    describe_events(app)
    return app
