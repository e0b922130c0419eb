"""Requests to addresses that somebody else has chosen, against a real server that misbehaves."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from schemas.errors import HeadwaterError, InvalidEvent
from streams.reactors import delivery
from streams.reactors.addresses import Addresses, AddressRefused, is_allowed, parsed_url
from streams.reactors.delivery import Answer, Deliveries, Refused, judged
from streams.reactors.reactor import NotActed, OutcomeUnknown
from tests.streams.gateway.serving import free_port
from tests.streams.reactors.target import Target

LOOPBACK = "127.0.0.0/8"


@pytest_asyncio.fixture
async def target() -> AsyncIterator[Target]:
    """A server."""
    async with Target().running() as running:
        yield running


@pytest_asyncio.fixture
async def deliveries() -> AsyncIterator[Deliveries]:
    """A sender that may reach loopback."""
    made = Deliveries(Addresses(LOOPBACK))
    yield made
    await made.close()


async def send(deliveries: Deliveries, url: str, *, idempotent: bool = True) -> Answer:
    """One message."""
    return await deliveries.post(
        url, [("Idempotency-Key", "k"), ("X-Mine", "1")], b"{}", idempotent=idempotent
    )


async def test_a_message_arrives_whole(deliveries: Deliveries, target: Target) -> None:
    """Path with query, host, own headers and body are what was given."""
    answer = await send(deliveries, target.url("/ok/päth?a=b%20c"))
    (message,) = target.messages
    assert answer.status == 200
    assert message.path == "/ok/p%C3%A4th?a=b%20c"
    assert message.headers["host"] == f"127.0.0.1:{target.port}"
    assert (message.headers["x-mine"], message.body) == ("1", b"{}")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_private_addresses_are_refused(address: str) -> None:
    """Loopback, private, link-local, shared, multicast and unspecified ones, also in IPv6's disguises."""
    assert not is_allowed(address, [])


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"]
)
def test_public_addresses_are_allowed(address: str) -> None:
    """They need no setting."""
    assert is_allowed(address, [])


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}/ok", "http://localhost:{}/ok", "http://[::ffff:127.0.0.1]:{}/ok"]
)
async def test_nothing_reaches_a_private_address_that_is_not_allowed(target: Target, url: str) -> None:
    """Refused before a connection is made, whatever the address is called; for good, so that nobody tries again."""
    strict = Deliveries(Addresses("10.0.0.0/8"))
    with pytest.raises(AddressRefused, match="not a public address") as refused:
        await send(strict, url.format(target.port))
    assert not refused.value.retriable
    assert not target.messages
    await strict.close()


async def test_the_address_that_was_checked_is_the_one_connected_to(
    monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    """A name that is public when it is first asked for and private a moment later reaches nothing."""
    answers = iter(["93.184.216.34"])
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def rebinding(host: str, port: int, **options: int) -> object:
        if host != "rebind.test":
            return resolve(host, port, **options)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers, "127.0.0.1"), port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    addresses = Addresses("")
    assert await addresses.of("rebind.test", 80) == ["93.184.216.34"]
    strict = Deliveries(addresses)
    with pytest.raises(AddressRefused):
        await send(strict, f"http://rebind.test:{target.port}/ok")
    assert len(asked) == 2
    assert not target.messages
    await strict.close()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.test/x",
        "http:///x",
        "a.test",
        "http://me:secret@a.test/",
        "https://a.test/#x",
        "http://[::1/",
        "",
    ],
)
def test_what_is_no_url_of_a_webhook(url: str) -> None:
    """Other schemes, no host, passwords and fragments are refused, and the password is not repeated."""
    with pytest.raises(InvalidEvent) as refused:
        parsed_url(url)
    assert "secret" not in str(refused.value)


async def test_a_connection_that_cannot_be_made_is_no_call(deliveries: Deliveries) -> None:
    """Nothing was sent: it may be tried again, whatever the effect."""
    with pytest.raises(NotActed):
        await send(deliveries, f"http://127.0.0.1:{free_port()}/ok")
    with pytest.raises(NotActed, match="has no address"):
        await send(deliveries, "http://no-such-host.invalid/ok")


@pytest.mark.parametrize("path", ["/cut", "/hang", "/drip"])
async def test_no_answer_leaves_the_outcome_unknown(
    deliveries: Deliveries, target: Target, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that took the message and said nothing, or says it byte by byte, may have acted."""
    monkeypatch.setattr(delivery, "ANSWER_S", 0.2)
    with pytest.raises((OutcomeUnknown, TimeoutError)):
        async with asyncio.timeout(2):
            await send(deliveries, target.url(path))
    assert len(target.messages) == 1


async def test_an_endless_answer_is_not_read(deliveries: Deliveries, target: Target) -> None:
    """A status is enough: of what follows only the beginning is read."""
    began = time.monotonic()
    assert judged(await send(deliveries, target.url("/endless/200"))) == "HTTP 200"
    failed = await send(deliveries, target.url("/endless/500"))
    assert failed.status == 500
    assert failed.text == "x" * 500
    assert time.monotonic() - began < 2


async def test_redirects_are_not_followed(deliveries: Deliveries, target: Target) -> None:
    """They would lead to where nobody has looked."""
    target.answers["/ok"] = [302]
    target.headers["Location"] = target.url("/elsewhere")
    with pytest.raises(Refused, match="HTTP 302"):
        judged(await send(deliveries, target.url("/ok")))
    assert not target.sent_to("/elsewhere")


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (200, None), (204, None), (301, Refused), (400, Refused), (404, Refused), (410, Refused),
        (408, NotActed), (425, NotActed), (429, NotActed), (503, NotActed),
        (500, OutcomeUnknown), (502, OutcomeUnknown), (504, OutcomeUnknown),
    ],
)  # fmt: skip
def test_what_a_status_means(status: int, raised: type[HeadwaterError] | None) -> None:
    """2xx is done; what asks to come again was not acted on; other 5xx may have been; the rest never will be."""
    if raised is None:
        assert judged(Answer(status, "", None)) == f"HTTP {status}"
        return
    with pytest.raises(raised):
        judged(Answer(status, "", None))


async def test_retry_after(deliveries: Deliveries, target: Target) -> None:
    """Seconds, or a date against the answer's own clock; a day at most, and nonsense is no wish."""
    target.answers["/ok"] = [503]
    waits = []
    for value in ("7", "99999999", "Sat, 21 Nov 2026 10:01:00 GMT", "soon", "-3"):
        target.headers = {"Retry-After": value, "Date": "Sat, 21 Nov 2026 10:00:00 GMT"}
        waits.append((await send(deliveries, target.url("/ok"))).retry_after_s)
    assert waits == [7.0, 86400.0, 60.0, None, None]


async def test_connections_are_kept_for_idempotent_messages_alone(
    deliveries: Deliveries, target: Target
) -> None:
    """One that the server closes in that moment would leave the outcome unknown."""
    for idempotent, connections in ((True, 1), (False, 3)):
        seen = set()
        begin = target._one

        async def noting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            seen.add(writer.get_extra_info("peername"))  # noqa: B023 - used within this turn
            return await begin(reader, writer)  # noqa: B023

        target._one = noting  # type: ignore[method-assign]
        for _ in range(3):
            await send(deliveries, target.url("/ok"), idempotent=idempotent)
        target._one = begin  # type: ignore[method-assign]
        assert len(seen) == connections


async def test_a_name_server_that_hangs_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, deliveries: Deliveries, target: Target
) -> None:
    """Names are resolved apart: four that hang leave room for others."""
    resolve = socket.getaddrinfo

    def slow(host: str, port: int, **options: int) -> object:
        if host == "slow.test":
            time.sleep(1)
            raise OSError("no answer")
        return resolve(host, port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    hanging = [asyncio.create_task(send(deliveries, "http://slow.test/")) for _ in range(8)]
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await send(deliveries, target.url("/ok"))
    assert time.monotonic() - began < 0.5
    for outcome in await asyncio.gather(*hanging, return_exceptions=True):
        assert isinstance(outcome, NotActed)
