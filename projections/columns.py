"""Column types that mean the same in SQLite and PostgreSQL, and numbers that add up exactly."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Dialect, Double, LargeBinary, Text
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator

MOST = 2**62 - 1
"""Sums stop here: two of these still add within 64 bits, so no event can break a sum."""
NANO = 1_000_000_000
_EPOCH_US = 62_135_596_800_000_000
_LATEST_US = 253_402_300_800_000_000


def without_nul(text: str) -> str:
    """The text as a view keeps it: PostgreSQL has no NUL in text, so it becomes U+FFFD everywhere."""
    return text.replace("\x00", "\ufffd")


class _Text(TypeDecorator[str]):
    """Text that sorts by code point everywhere, without NUL."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TEXT(collation="C"))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's
        """Values of questions; rows are written by `projections.writing`."""
        return without_nul(value) if value else value


TEXT = _Text()
INTEGER = BigInteger()
FLOAT: Double[float] = Double()
BYTES = LargeBinary()


def saturated(value: int) -> int:
    """A count that can be added; what is larger than MOST counts as MOST."""
    return min(MOST, value)


def nano_usd(cost_usd: float | None) -> int:
    """US dollars as whole nano-dollars: unlike floats, their sum does not depend on its order."""
    return saturated(round(min(cost_usd or 0.0, MOST / NANO) * NANO))


def stamp(time: float, source: str, id_: str) -> str:
    """Orders events by event time (microseconds), then by name, as text; the same event, the same stamp."""
    micros = max(0, min(round(time * 1_000_000), _LATEST_US) + _EPOCH_US)
    return without_nul(f"{micros:018d}|{source}|{id_}")
