"""Who calls: an API key as bearer token, or as the password of HTTP basic where foreign tools need it."""

import base64
import binascii
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPBase
from starlette.exceptions import HTTPException

from projections.access import Caller
from streams.keys import Keyring

_BEARER = HTTPBearer(auto_error=False, scheme_name="key", description="An API key (`headwater keys create`).")
# Not FastAPI's HTTPBasic: that answers a malformed header by itself. Here it only documents the scheme.
_BASIC = HTTPBase(
    scheme="basic",
    auto_error=False,
    scheme_name="password",
    description="An API key as password; any user name.",
)


class Guard:
    """Gives FastAPI dependencies that turn a request's key into a Caller; 401 where there is none."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    @property
    def caller(self) -> Callable[..., Caller]:
        """Takes a bearer token."""

        def caller(request: Request, _: Annotated[object, Depends(_BEARER)]) -> Caller:
            return self._identify(request, _bearer(request))

        return caller

    @property
    def tool(self) -> Callable[..., Caller]:
        """Takes a bearer token or HTTP basic's password."""

        def tool(
            request: Request, _: Annotated[object, Depends(_BEARER)], __: Annotated[object, Depends(_BASIC)]
        ) -> Caller:
            return self._identify(request, _bearer(request) or _password(request), basic=True)

        return tool

    def _identify(self, request: Request, key: str | None, *, basic: bool = False) -> Caller:
        identity = self._keyring.identify(key) if key is not None else None
        if identity is None:
            challenge = 'Bearer realm="headwater"' + (', error="invalid_token"' if key else "")
            raise HTTPException(
                401,
                ("this API key is not known" if key else "an API key is needed: Authorization: Bearer <key>")
                + "; the data folder's file api-key holds the first, `headwater keys create` makes more",
                {"WWW-Authenticate": challenge + (', Basic realm="headwater"' if basic else "")},
            )
        request.state.key_name = identity.name
        return identity.caller


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
