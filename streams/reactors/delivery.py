"""One HTTP request to an address that somebody else has chosen: no private address, no endless answer.

The address is checked where the connection is made, on the very address that is connected to: a name
that resolves to another one a moment later gains nothing. Redirects are not followed, proxies not used.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import httpcore

from schemas.errors import HeadwaterError
from streams.reactors.addresses import Addresses, parsed_url, port_of
from streams.reactors.reactor import NotActed, OutcomeUnknown

CONNECT_S, ANSWER_S = 5.0, 10.0
LONGEST_RETRY_S = 24 * 3600.0
_SHOWN_BYTES = 500
_READ_BYTES, _READ_S = 16 * 1024, 1.0
"""Of an answer's body: read to its end, the connection can be used again."""
_AWAY = {408, 425, 429, 503}


class Refused(HeadwaterError):
    """The target will not take this message, however often it is sent."""


class Answer(NamedTuple):
    """A status, the answer's beginning as text, and its Retry-After in seconds."""

    status: int
    text: str
    retry_after_s: float | None


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects to allowed addresses only."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """The first address that answers."""
        addresses = await self._addresses.of(host, port)
        for address in addresses[:-1]:
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._plain.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """For httpcore's own retries, of which there are none."""
        await asyncio.sleep(seconds)


class Deliveries:
    """Sends messages.

    Connections are kept for idempotent ones alone: on a kept one, which the target may be closing in
    that moment, nobody knows whether it got the message.
    """

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        context = ssl.create_default_context()
        self._pools = {
            kept: httpcore.AsyncConnectionPool(
                ssl_context=context,
                max_connections=None,  # a target has few calls at a time; one that hangs must not use others' up
                max_keepalive_connections=20 if kept else 0,
                keepalive_expiry=5.0,
                network_backend=_Guarded(addresses),
            )
            for kept in (True, False)
        }

    async def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()
        self._addresses.close()

    async def post(
        self, url: str, headers: Sequence[tuple[str, str]], body: bytes, *, idempotent: bool
    ) -> Answer:
        """POST it. Raises NotActed where nothing was sent, OutcomeUnknown where it may have arrived."""
        parsed = parsed_url(url)
        target = httpcore.URL(
            scheme=parsed.raw_scheme, host=parsed.raw_host, port=port_of(parsed), target=parsed.raw_path
        )
        timeouts = {"connect": CONNECT_S, "read": ANSWER_S, "write": ANSWER_S, "pool": CONNECT_S}
        sent = [("Host", parsed.netloc.decode()), ("Content-Length", str(len(body))), *headers]
        try:
            async with self._pools[idempotent].stream(
                "POST", target, headers=sent, content=body, extensions={"timeout": timeouts}
            ) as response:
                text = await _beginning(response)
                return Answer(response.status, text, _retry_after(response.headers))
        except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout) as error:
            raise NotActed(f"{parsed.host} cannot be connected to: {_said(error)}") from error
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise OutcomeUnknown(f"{parsed.host} gave no answer: {_said(error)}") from error


def judged(answer: Answer) -> str:
    """What a successful answer says. Raises NotActed, OutcomeUnknown or Refused for another one."""
    if 200 <= answer.status < 300:
        return f"HTTP {answer.status}"
    said = f"HTTP {answer.status}" + (f": {answer.text}" if answer.text else "")
    if answer.status in _AWAY:
        raise NotActed(said, after_s=answer.retry_after_s)
    if answer.status >= 500:
        raise OutcomeUnknown(said)
    raise Refused(said, hint="mend the webhook, then replay the dead letter")


async def _beginning(response: httpcore.Response) -> str:
    """The start of an answer, for a person; in bounded time and space."""
    read = b""
    try:
        async with asyncio.timeout(_READ_S):
            async for part in response.aiter_stream():
                read += part
                if len(read) >= _READ_BYTES:
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


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
