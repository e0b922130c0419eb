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


class _Text(TypeDecorator[str]):
    """Text that sorts by code point everywhere. PostgreSQL has no NUL in text: it becomes U+FFFD there."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TEXT(collation="C"))
        return dialect.type_descriptor(Text())

    def bind_processor(self, dialect: Dialect) -> Any:
        """None where the driver takes everything: a call per value would cost more than the insert."""
        if dialect.name != "postgresql":
            return None
        return lambda value: value.replace("\x00", "\ufffd") if value and "\x00" in value else value


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
    return f"{micros:018d}|{source}|{id_}"
