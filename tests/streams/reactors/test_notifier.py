"""Findings reach webhooks: from a registration over HTTP to the answer of a real server, on a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from schemas import catalog
from schemas import events as e
from schemas.codec import Codec
from schemas.envelope import Envelope
from streams.admin import ensure_topics
from streams.gateway.app import create_app
from streams.keys import admin_key, create
from streams.reactors import host
from streams.reactors.notifier import Notifier, message, wants
from streams.settings import Settings
from streams.views import follower
from tests.packages import Packages, tickets
from tests.streams.reactors.findings import Findings, finding
from tests.streams.reactors.target import Target


class Instance:
    """Views, reactors and the API of one namespace, in this process; calls carry the administrator's key."""

    def __init__(self, settings: Settings, http: httpx.AsyncClient, findings: Findings) -> None:
        self.settings = settings
        self.http = http
        self.findings = findings

    async def register(self, url: str, **about: Any) -> dict[str, Any]:
        """A webhook that the notifier knows of."""
        answer = await self.http.post("/v1/webhooks", json={"url": url, **about})
        assert answer.status_code == 201, answer.text
        await asyncio.sleep(0.3)  # nothing says when a worker has read a registration: "within a second"
        registered: dict[str, Any] = answer.json()
        await self.get("/v1/webhooks", at_least=registered["position"])
        return registered

    async def get(self, path: str, **query: str) -> dict[str, Any]:
        """An answer."""
        answer = await self.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def effects(self, **query: str) -> list[dict[str, Any]]:
        """Effects, the newest first."""
        items: list[dict[str, Any]] = (await self.get("/v1/effects", **query))["items"]
        return items


@asynccontextmanager
async def instance(settings: Settings) -> AsyncIterator[Instance]:
    """Everything that a finding passes on its way."""
    await ensure_topics(settings)
    stop = asyncio.Event()
    running = [
        asyncio.create_task(host.run(settings, stop)),
        asyncio.create_task(follower.run(settings, stop)),
    ]
    app = create_app(settings, Codec())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        Findings(settings) as findings,
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=30) as http,
    ):
        http.headers["Authorization"] = f"Bearer {admin_key(settings)}"
        status = settings.run_folder / "reactors.json"
        await until(lambda: asyncio.sleep(0, status.exists() and b'"running"' in status.read_bytes()))
        yield Instance(settings, http, findings)
    stop.set()
    await asyncio.gather(*running)


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 40.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - of what is read over HTTP nobody is told
            await asyncio.sleep(0.05)


async def test_a_finding_reaches_its_webhook_once_and_signed(settings: Settings) -> None:
    """The message is a CloudEvent that Standard Webhooks' own library verifies; the effect is told with its cause."""
    async with instance(settings) as here, Target().running() as target:
        registered = await here.register(target.url())
        assert registered["secret"].startswith("whsec_")
        await here.findings.write([("f-1", finding(1))])
        await asyncio.wait_for(target.arrived.wait(), 20)
        (message_,) = target.messages
        verified = Webhook(registered["secret"]).verify(message_.body, message_.headers)
        assert verified["type"] == "AnomalyDetected"
        assert verified["data"]["summary"] == "finding 1"
        assert (verified["id"], verified["correlationid"]) == ("f-1", "run-f-1")
        assert message_.headers["content-type"] == "application/cloudevents+json"
        with pytest.raises(WebhookVerificationError):
            Webhook(registered["secret"]).verify(message_.body + b" ", message_.headers)

        async def told() -> bool:
            return [x["status"] for x in await here.effects()] == ["succeeded"]

        await until(told)
        (effect,) = await here.effects(target=registered["webhook"]["id"], status="succeeded")
        assert effect["id"] == message_.headers["idempotency-key"] == message_.headers["webhook-id"]
        assert (effect["causation_id"], effect["detail"], effect["attempt"]) == ("f-1", "HTTP 200", 1)
        await here.findings.write([("f-1", finding(1)), ("f-2", finding(2))])
        await until(lambda: asyncio.sleep(0, len(target.messages) == 2))
        await asyncio.sleep(0.3)
        assert [json.loads(m.body)["id"] for m in target.messages] == ["f-1", "f-2"]


async def test_the_life_of_a_webhook(settings: Settings) -> None:
    """Registered, tested, changed, given another secret, removed: each shows at the target, or no more."""
    async with instance(settings) as here, Target().running() as target:
        registered = await here.register(target.url("/ok/first"), types=["AnomalyDetected"])
        id_, secret = registered["webhook"]["id"], registered["secret"]
        assert (await here.http.post(f"/v1/webhooks/{id_}/test")).status_code == 202
        await until(lambda: asyncio.sleep(0, len(target.sent_to("/ok/first")) == 1))
        assert json.loads(target.messages[0].body)["type"] == "WebhookTested"

        changed = await here.http.put(f"/v1/webhooks/{id_}", json={"url": target.url("/ok/second")})
        assert changed.json()["secret"] == secret
        rotated = await here.http.post(f"/v1/webhooks/{id_}/rotate")
        assert rotated.json()["webhook"]["url"] in (target.url("/ok/first"), target.url("/ok/second"))
        await here.get("/v1/webhooks", at_least=rotated.json()["position"])
        changed = await here.http.put(f"/v1/webhooks/{id_}", json={"url": target.url("/ok/second")})
        newer = changed.json()["secret"]
        assert newer not in (secret, "")
        assert newer == rotated.json()["secret"]
        await asyncio.sleep(0.3)
        await here.findings.write([("f-1", finding(1))])
        await until(lambda: asyncio.sleep(0, len(target.sent_to("/ok/second")) == 1))
        sent = target.sent_to("/ok/second")[0]
        Webhook(newer).verify(sent.body, sent.headers)

        removed = await here.http.delete(f"/v1/webhooks/{id_}")
        assert removed.status_code == 200
        gone = await here.get("/v1/webhooks", at_least=removed.json()["position"])
        assert gone["items"] == []
        assert (await here.http.get(f"/v1/webhooks/{id_}")).status_code == 404
        assert (await here.http.post(f"/v1/webhooks/{id_}/test")).status_code == 404
        await asyncio.sleep(0.3)
        await here.findings.write([("f-2", finding(2))])
        await asyncio.sleep(0.5)
        assert len(target.messages) == 2


async def test_a_target_that_comes_back_gets_what_it_missed(settings: Settings) -> None:
    """503 defers, 200 follows; 404 is a dead letter at once, which is not sent to the webhook that it is about."""
    async with instance(settings) as here, Target().running() as target:
        target.answers["/ok/busy"] = [503, 503, 200]
        target.answers["/ok/gone"] = [404]
        busy = await here.register(target.url("/ok/busy"), types=["AnomalyDetected"])
        gone = await here.register(target.url("/ok/gone"))
        await here.findings.write([("f-1", finding(1))])

        async def delivered() -> bool:
            return [x["status"] for x in await here.effects(target=busy["webhook"]["id"])] == ["succeeded"]

        await until(delivered)
        (effect,) = await here.effects(target=busy["webhook"]["id"])
        assert effect["attempt"] == 3
        assert len({m.headers["idempotency-key"] for m in target.sent_to("/ok/busy")}) == 1
        (failed,) = await here.effects(target=gone["webhook"]["id"])
        assert (failed["status"], failed["error_type"], failed["attempt"]) == ("failed", "Refused", 1)

        async def lettered() -> bool:
            return len((await here.get("/v1/dead-letters", fold="notifier"))["items"]) == 1

        await until(lettered)
        await asyncio.sleep(0.5)
        assert len(target.sent_to("/ok/gone")) == 1


async def test_a_private_address_is_refused_when_it_is_registered_and_when_it_is_called(
    settings: Settings,
) -> None:
    """Without its network in the settings: 422 with what to do; one that was allowed once fails for good later."""
    async with Target().running() as target:
        async with instance(settings) as here:
            registered = await here.register(target.url())
        strict = settings.model_copy(update={"webhook_networks": ""})
        async with instance(strict) as here:
            refused = await here.http.post("/v1/webhooks", json={"url": target.url()})
            assert refused.status_code == 422
            assert "HEADWATER_WEBHOOK_NETWORKS" in refused.json()["hint"]
            await here.findings.write([("f-1", finding(1))])

            async def told() -> bool:
                return [x["status"] for x in await here.effects()] == ["failed"]

            await until(told)
            (effect,) = await here.effects(target=registered["webhook"]["id"])
            assert effect["error_type"] == "AddressRefused"
    assert not target.messages


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "url"),
        ({"url": "ftp://a.test/"}, "http or https"),
        ({"url": "https://me:pw@a.test/"}, "password"),
        ({"url": "https://a.test/", "types": ["ToolCallFailed"]}, "ToolCallFailed cannot be sent"),
        ({"url": "https://a.test/", "severity": "bad"}, "severity"),
        ({"url": "https://a.test/", "colour": 1}, "colour"),
    ],
)
async def test_what_cannot_be_registered(
    broker: Settings, settings: Settings, body: dict[str, Any], says: str
) -> None:
    """A registration that makes no sense is answered with what is wrong, and changes nothing."""
    app = create_app(settings, Codec())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
        http.headers["Authorization"] = f"Bearer {admin_key(settings)}"
        answer = await http.post("/v1/webhooks", json=body)
        assert answer.status_code == 422
        assert says in answer.text
        http.headers["Authorization"] = f"Bearer {create(settings, 'default', ['read', 'produce'], 'k')}"
        for forbidden in (
            await http.post("/v1/webhooks", json={"url": "https://a.test/"}),
            await http.get("/v1/webhooks"),
        ):
            assert forbidden.status_code == 403


def test_filters() -> None:
    """Type, least severity and beginnings of components; a filter on what an event lacks lets it pass."""
    webhook = e.WebhookRegistered(webhook_id="w", url="https://a.test/")
    found, letter = (
        finding(1, severity="warning", component="tool:search"),
        e.DeadLetter(topic="t", partition=0, offset=0, error_type="E"),
    )
    assert wants(webhook, found)
    assert not wants(webhook.model_copy(update={"types": ["DeadLetter"]}), found)
    assert wants(webhook.model_copy(update={"types": ["DeadLetter"]}), letter)
    assert not wants(webhook.model_copy(update={"severity": "error"}), found)
    assert wants(webhook.model_copy(update={"severity": "warning"}), found)
    assert wants(webhook.model_copy(update={"severity": "critical"}), letter)
    assert wants(webhook.model_copy(update={"components": ["agent:", "tool:sea"]}), found)
    assert not wants(webhook.model_copy(update={"components": ["agent:"]}), found)
    assert wants(webhook.model_copy(update={"components": ["agent:"]}), letter)


def test_findings_of_packages_are_sent_where_they_are_named(packages: Packages) -> None:
    """Derived topics of packages are read; their types go to the webhooks that name them, and to no others."""
    tickets(packages)
    notifier = Notifier()
    assert [topic.name for topic in notifier.topics] == [
        "anomalies", "headwater.dead-letters", "acme.piles", "headwater.webhooks",
    ]  # fmt: skip
    piled = catalog.event_types()["TicketsPiledUp"]
    assert piled in notifier.accepts
    found = piled.model_validate({"customer": "anna", "tickets": 3})
    webhook = e.WebhookRegistered(webhook_id="w", url="https://a.test/")
    assert not wants(webhook, found)
    own = webhook.model_copy(update={"types": ["TicketsPiledUp"], "severity": "error", "components": ["a"]})
    assert wants(own, found)
    assert not wants(own, finding(1))


def test_bytes_of_a_dead_letter_are_base64() -> None:
    """A record that is no text can be told in JSON."""
    letter = e.DeadLetter(topic="t", partition=0, offset=0, error_type="E", value=b"\xff\x00")
    told = json.loads(message(letter, Envelope(id="i", source="s", type="DeadLetter", time=0.0)))
    assert told["data"]["value"] == "/wA="
    assert told["time"] == "1970-01-01T00:00:00.000000Z"
