"""Which addresses a webhook may have: public ones, unless a network is allowed on purpose."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from schemas.errors import HeadwaterError, InvalidEvent
from streams.reactors.reactor import NotActed

_RESOLVERS = 32
"""Threads that resolve names: a name server that hangs must not hold up other targets."""
_TRANSLATED = [ipaddress.ip_network(n) for n in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16")]
"""IPv6 addresses that stand for IPv4 ones, which may be private."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressRefused(HeadwaterError):
    """The host has only addresses that webhooks may not reach."""


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


def port_of(url: httpx.URL) -> int:
    """The port, said or meant."""
    return url.port or (443 if url.scheme == "https" else 80)


def is_allowed(address: str, allowed: Sequence[Network]) -> bool:
    """Whether webhooks may reach an address: a public one, or one of an allowed network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if any(ip in network for network in allowed):
        return True
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _TRANSLATED)


class Addresses:
    """Resolves names to addresses that may be reached. `allowed` are networks, separated by commas."""

    def __init__(self, allowed: str) -> None:
        self._allowed = [ipaddress.ip_network(part.strip()) for part in allowed.split(",") if part.strip()]
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, "resolve")

    async def of(self, host: str, port: int) -> list[str]:
        """The host's addresses that may be reached. Raises AddressRefused, or NotActed where it has none."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            raise NotActed(f"{host} has no address: {error}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        reachable = [address for address in addresses if is_allowed(address, self._allowed)]
        if not reachable:
            raise AddressRefused(
                f"{host} is {', '.join(addresses)}, which is not a public address",
                hint="name its network in HEADWATER_WEBHOOK_NETWORKS if it is meant",
            )
        return reachable

    def close(self) -> None:
        """Let its threads go."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)
