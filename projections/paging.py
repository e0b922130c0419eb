"""Pages by key, not by number: rows that come in between neither repeat nor hide others."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import orjson
from sqlalchemy import Column, Connection, Row, Select, tuple_
from sqlalchemy.types import TypeEngine

from projections.columns import FLOAT, INTEGER
from schemas.errors import HeadwaterError

_MOST = 2**63 - 1


class BadCursor(HeadwaterError):
    """A cursor is not one of ours, or belongs to another question."""


class NotFound(HeadwaterError):
    """What was asked for by name is not there."""


def page(
    connection: Connection,
    statement: Select[Any],
    keys: Sequence[Column[Any]],
    *,
    question: object,
    limit: int,
    cursor: str | None,
    descending: bool = False,
) -> tuple[Sequence[Row[Any]], str | None]:
    """Up to `limit` rows after the cursor, ordered by `keys`, and the next cursor.

    Keys are together unique, and all selected. `question` is the filters: a cursor holds for the
    same question only. Raises BadCursor.
    """
    start = start_of(cursor, question, keys)
    if start is not None:
        values, columns = tuple_(*start), tuple_(*keys)
        statement = statement.where(columns < values if descending else columns > values)
    order = [key.desc() if descending else key.asc() for key in keys]
    rows = connection.execute(statement.order_by(*order).limit(limit + 1)).all()
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]._mapping  # noqa: SLF001 - SQLAlchemy's public name for it
    return rows[:limit], cursor_at(question, [last[key.name] for key in keys])


def cursor_at(question: object, values: Sequence[Any]) -> str:
    """The cursor of what comes after the row with these values of the keys."""
    return base64.urlsafe_b64encode(orjson.dumps([_name(question), *values])).decode().rstrip("=")


def start_of(cursor: str | None, question: object, keys: Sequence[Column[Any]]) -> list[Any] | None:
    """The values of the keys after which a cursor goes on; None without one. Raises BadCursor."""
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        found, *values = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if len(values) != len(keys):
            raise ValueError("another list's cursor")
        checked = [_checked(value, key.type) for value, key in zip(values, keys, strict=True)]
    except (ValueError, TypeError, binascii.Error) as error:
        raise BadCursor("this is not a cursor of this list", hint="send `next` back as you got it") from error
    if found != _name(question):
        raise BadCursor("this cursor belongs to other filters", hint="keep the filters while you turn pages")
    return checked


def _name(question: object) -> str:
    return blake2b(orjson.dumps(question, default=str), digest_size=8).hexdigest()


def _checked(value: Any, kind: TypeEngine[Any]) -> Any:
    """A value that the database takes for that column. Raises ValueError."""
    if kind is INTEGER:
        if type(value) is int and -_MOST <= value <= _MOST:
            return value
    elif kind is FLOAT:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is no value of this key")
