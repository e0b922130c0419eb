"""Who calls: an API key as bearer token, or as the password of HTTP basic where foreign tools need it."""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPBase
from starlette.exceptions import HTTPException

from projections.access import Caller, Forbidden
from streams.keys import PRODUCE, Keyring, Refusal
from streams.keys.scopes import produce_to, topics_of
from streams.keys.uses import Uses

PAUSE_S = 0.2
"""Before a key is refused: a client that tries again at once must not keep the door from others."""
_BEARER = HTTPBearer(auto_error=False, scheme_name="key", description="An API key (`headwater keys create`).")
# Not FastAPI's HTTPBasic: that answers a malformed header by itself. Here it only documents the scheme.
_BASIC = HTTPBase(
    scheme="basic",
    auto_error=False,
    scheme_name="password",
    description="An API key as password; any user name.",
)
_MISSING = Refusal("missing", "an API key is needed: Authorization: Bearer <key>")


class Guard:
    """Gives FastAPI dependencies that turn a request's key into a Caller; 401 where there is none.

    Notes each use, and puts the key's name and id where the access log finds them. They are coroutines:
    FastAPI would call a plain function in the thread pool that queries fill.
    """

    def __init__(self, keyring: Keyring, uses: Uses) -> None:
        self._keyring = keyring
        self._uses = uses

    @property
    def caller(self) -> Callable[..., Awaitable[Caller]]:
        """Takes a bearer token."""

        async def caller(request: Request, _: Annotated[object, Depends(_BEARER)]) -> Caller:
            return await self._identify(request, _bearer(request))

        return caller

    @property
    def tool(self) -> Callable[..., Awaitable[Caller]]:
        """Takes a bearer token or HTTP basic's password."""

        async def tool(
            request: Request, _: Annotated[object, Depends(_BEARER)], __: Annotated[object, Depends(_BASIC)]
        ) -> Caller:
            return await self._identify(request, _bearer(request) or _password(request), basic=True)

        return tool

    def refusal(self, request: Request, caller: Caller) -> str | None:
        """Why the key that a request came with is not this caller's any more; None: it is."""
        key = _bearer(request) or ""
        identity = self._keyring.identify(key)
        if identity is None:
            return self._keyring.refusal(key).sentence
        return None if identity.caller == caller else "this API key may do other things now"

    async def _identify(self, request: Request, key: str | None, *, basic: bool = False) -> Caller:
        identity = self._keyring.identify(key) if key is not None else None
        if identity is None:
            refusal = self._keyring.refusal(key) if key else _MISSING
            request.state.key_id, request.state.refused = refusal.key_id, refusal.reason
            await asyncio.sleep(PAUSE_S)
            challenge = 'Bearer realm="headwater"'
            if key:
                challenge += f', error="invalid_token", error_description="{refusal.sentence}"'
            raise HTTPException(
                401,
                f"{refusal.sentence}; the data folder's file api-key holds the first, "
                "`headwater keys create` makes more",
                {"WWW-Authenticate": challenge + (', Basic realm="headwater"' if basic else "")},
            )
        request.state.key_id, request.state.key_name = identity.caller.key, identity.name
        self._uses.note(identity.caller.key, _door(request))
        return identity.caller


def require_produce(caller: Caller, topic: str) -> None:
    """Raise Forbidden unless the caller's key may write to the topic."""
    if PRODUCE in caller.scopes or produce_to(topic) in caller.scopes:
        return
    others = ", ".join(topics_of(caller.scopes)) or "no topic"
    raise Forbidden(
        f"this key lacks the scope {produce_to(topic)}: it may write to {others}",
        hint=f"use a key with that scope, or with {PRODUCE}",
    )


def _door(request: Request) -> str:
    route = request.scope.get("route")
    return f"{request.method} {getattr(route, 'path', request.url.path)}"


def _credentials(request: Request, scheme: str) -> str | None:
    given, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if given.lower() == scheme else None


def _bearer(request: Request) -> str | None:
    return _credentials(request, "bearer")


def _password(request: Request) -> str | None:
    credentials = _credentials(request, "basic")
    if credentials is None:
        return None
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
