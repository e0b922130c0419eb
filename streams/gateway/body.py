"""Request bodies as JSON: in bounded memory, with a plain answer to what is none."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Request

from schemas.errors import HeadwaterError, RecordTooLarge


class BodyTooLarge(RecordTooLarge):
    """A request's body is larger than the gateway takes."""


class NotJson(HeadwaterError):
    """A request's body is not JSON."""


class UnsupportedMediaType(HeadwaterError):
    """A request's body says to be something else than what the route takes."""


def media_type(request: Request, known: tuple[str, ...]) -> str:
    """The body's media type, the first of `known` where none is said. Raises UnsupportedMediaType."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given and given not in known:
        raise UnsupportedMediaType(
            f"a body of type {given!r} is not taken", hint=f"send {' or '.join(known)}"
        )
    return given or known[0]


async def read_json(request: Request, limit: int) -> Any:
    """The body as JSON. Raises BodyTooLarge, before reading it where its length is said, or NotJson."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotJson(
            f"the body is not JSON: {error}",
            hint="nothing was written; JSON is UTF-8 and has no NaN and no Infinity",
        ) from error


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body is larger than {limit:,} bytes", hint="nothing was written; send fewer events at once"
    )
