"""Request bodies as JSON: in bounded memory, with a plain answer to what is none."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import Request

from schemas.errors import HeadwaterError, RecordTooLarge

STALLED_S = 15.0


class BodyTooLarge(RecordTooLarge):
    """A request's body is larger than the gateway takes."""


class BodyTooSlow(HeadwaterError):
    """A request's body stopped coming."""

    category = "TEMPORARY"


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


def said_length(request: Request, limit: int) -> int:
    """Bytes of the body, `limit` where the request does not say. Raises BodyTooLarge."""
    said = request.headers.get("content-length", "")
    if not said.isdecimal():
        return limit
    if int(said) > limit:
        raise _too_large(limit)
    return int(said)


async def read_body(request: Request, limit: int) -> bytearray:
    """The body. Raises BodyTooLarge, before reading it where its length is said, or BodyTooSlow."""
    said_length(request, limit)
    body = bytearray()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(STALLED_S) as clock:
            async for chunk in request.stream():
                clock.reschedule(loop.time() + STALLED_S)
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError as error:
        raise BodyTooSlow(
            f"the body stopped coming: nothing for {STALLED_S:g} s", hint="nothing was written; send it again"
        ) from error
    return body


def parse_json(body: bytearray) -> Any:
    """A body as JSON. Raises NotJson."""
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
