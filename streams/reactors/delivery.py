"""One HTTP request to an address that somebody else has chosen: no private address, no endless answer.

The address is checked where the connection is made, on the very address that is connected to: a name
that resolves to another one a moment later gains nothing. Redirects are not followed, proxies not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import httpcore
import httpx

from schemas.errors import HeadwaterError, InvalidEvent
from streams.reactors.reactor import NotActed, OutcomeUnknown

CONNECT_S, ANSWER_S = 5.0, 10.0
LONGEST_RETRY_S = 24 * 3600.0
_SHOWN_BYTES = 500
_SHOWN_S = 1.0
_RESOLVERS = 32
"""Threads that resolve names: a name server that hangs must not hold up other targets."""
_AWAY = {408, 425, 429, 503}
_TRANSLATED = [ipaddress.ip_network(n) for n in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16")]
"""IPv6 addresses that stand for IPv4 ones, which may be private."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressRefused(HeadwaterError):
    """The host has only addresses that webhooks may not reach."""


class Refused(HeadwaterError):
    """The target will not take this message, however often it is sent."""


class Answer(NamedTuple):
    """A status, the answer's beginning as text, and its Retry-After in seconds."""

    status: int
    text: str
    retry_after_s: float | None


def parsed_url(url: str) -> httpx.URL:
    """The URL of a webhook. Raises InvalidEvent where it is none, or holds what does not belong there."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidEvent(f"{url!r} is not a URL: {error}", hint="https://host/path") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidEvent(f"{url!r} is not an http or https URL", hint="https://host/path")
    if parsed.userinfo or parsed.fragment:
        raise InvalidEvent(
            "the URL holds a password or a fragment", hint="leave them out: messages are signed"
        )
    return parsed


def networks(text: str) -> list[Network]:
    """Networks separated by commas."""
    return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]


def is_allowed(address: str, allowed: Iterable[Network]) -> bool:
    """Whether webhooks may reach an address: a public one, or one of an allowed network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if any(ip in network for network in allowed):
        return True
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _TRANSLATED)


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects to allowed addresses only."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._plain = httpcore.AnyIOBackend()
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, "resolve")

    async def resolve(self, host: str, port: int) -> list[str]:
        """The host's addresses that may be reached. Raises AddressRefused, or NotActed where it has none."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            raise NotActed(f"{host} has no address: {error}") from error
        addresses = [str(entry[4][0]) for entry in found]
        reachable = [a for a in dict.fromkeys(addresses) if is_allowed(a, self._allowed)]
        if not reachable:
            raise AddressRefused(
                f"{host} is {', '.join(sorted(set(addresses)))}, which is not a public address",
                hint="name its network in HEADWATER_WEBHOOK_NETWORKS if it is meant",
            )
        return reachable

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """The first address that answers."""
        addresses = await self.resolve(host, port)
        for address in addresses[:-1]:
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._plain.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """For httpcore's own retries, of which there are none."""
        await asyncio.sleep(seconds)

    def close(self) -> None:
        """Let its threads go."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)


class Deliveries:
    """Sends messages.

    Connections are kept for idempotent ones alone: on a kept one, which the target may be closing in
    that moment, nobody knows whether it got the message.
    """

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._backend = _Guarded(allowed)
        context = ssl.create_default_context()
        self._pools = {
            kept: httpcore.AsyncConnectionPool(
                ssl_context=context,
                max_connections=None,  # a target has few calls at a time; one that hangs must not use others' up
                max_keepalive_connections=20 if kept else 0,
                keepalive_expiry=5.0,
                network_backend=self._backend,
            )
            for kept in (True, False)
        }

    async def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()
        self._backend.close()

    async def check(self, url: str) -> None:
        """Raise AddressRefused where the URL's host may not be reached, InvalidEvent where it is no URL."""
        parsed = parsed_url(url)
        try:
            await self._backend.resolve(parsed.host, _port(parsed))
        except NotActed:
            return  # it may have an address by the time that there is something to send

    async def post(
        self, url: str, headers: Sequence[tuple[str, str]], body: bytes, *, idempotent: bool
    ) -> Answer:
        """POST it. Raises NotActed where nothing was sent, OutcomeUnknown where it may have arrived."""
        parsed = parsed_url(url)
        target = httpcore.URL(
            scheme=parsed.raw_scheme, host=parsed.raw_host, port=_port(parsed), target=parsed.raw_path
        )
        timeouts = {"connect": CONNECT_S, "read": ANSWER_S, "write": ANSWER_S, "pool": CONNECT_S}
        sent = [("Host", parsed.netloc.decode()), ("Content-Length", str(len(body))), *headers]
        try:
            async with self._pools[idempotent].stream(
                "POST", target, headers=sent, content=body, extensions={"timeout": timeouts}
            ) as response:
                text = "" if 200 <= response.status < 300 else await _beginning(response)
                return Answer(response.status, text, _retry_after(response.headers))
        except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout) as error:
            raise NotActed(f"{parsed.host} cannot be connected to: {_said(error)}") from error
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise OutcomeUnknown(f"{parsed.host} gave no answer: {_said(error)}") from error


def judged(answer: Answer) -> str:
    """What a successful answer says. Raises NotActed, OutcomeUnknown or Refused for another one."""
    said = f"HTTP {answer.status}" + (f": {answer.text}" if answer.text else "")
    if 200 <= answer.status < 300:
        return said
    if answer.status in _AWAY:
        raise NotActed(said, after_s=answer.retry_after_s)
    if answer.status >= 500:
        raise OutcomeUnknown(said)
    raise Refused(said, hint="mend the webhook, then replay the dead letter")


async def _beginning(response: httpcore.Response) -> str:
    """The start of an answer, for a person; in bounded time and space."""
    read = b""
    try:
        async with asyncio.timeout(_SHOWN_S):
            async for part in response.aiter_stream():
                read += part
                if len(read) >= _SHOWN_BYTES:
                    break
    except (TimeoutError, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError):
        pass  # the status is what counts
    text = read[:_SHOWN_BYTES].decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _retry_after(headers: Sequence[tuple[bytes, bytes]]) -> float | None:
    """Seconds that the target asks for, at most a day; a date counts from the answer's own Date."""
    found = {name.lower(): value.decode("latin-1").strip() for name, value in headers}
    value = found.get(b"retry-after")
    if value is None:
        return None
    if value.isdecimal():
        return min(float(value[:12]), LONGEST_RETRY_S)
    try:
        begin = parsedate_to_datetime(found[b"date"])
        seconds = (parsedate_to_datetime(value) - begin).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None
    return min(max(0.0, seconds), LONGEST_RETRY_S)


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
