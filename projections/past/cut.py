"""What `at` means: a cut of the log, a next offset for each place; everything below it is reflected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol

from projections.history import first_of, whole_buckets
from projections.position import BadToken, Position, decode
from projections.view import Entry, Place
from schemas.errors import HeadwaterError, OffsetOutOfRange

Cut = Mapping[Place, int]
"""The next offset of each place that was read; a place without one was not."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class BadMoment(HeadwaterError):
    """`at` is neither a time that has come nor a position token."""


class Log(Protocol):
    """What the log is asked about the past. Raises BrokerUnavailable."""

    async def check(self, position: Mapping[Place, int]) -> None:
        """Raise BadToken where a place does not exist, or ends before its offset."""

    async def starts(self, topics: Iterable[str]) -> dict[Place, int]:
        """The first offset that each place still has."""

    async def since(self, topics: Iterable[str], ms: int) -> dict[Place, int]:
        """The first offset that the broker stamped at a time (milliseconds since 1970) or later, else the end."""

    async def read(self, ranges: Mapping[Place, tuple[int, int]]) -> list[Entry]:
        """Committed events from an offset up to before another, each place in order.

        Raises OffsetOutOfRange where they are gone.
        """

    async def stamped(self, offsets: Mapping[Place, int], within_s: float) -> int | None:
        """When the broker had stamped a record at or after each of these offsets (ms).

        None: not yet, or that was not found out in time; nobody else's question waits for it.
        """


def moment_of(at: str) -> int | Position:
    """Milliseconds since 1970, rounded up, or the position of a token. Raises BadMoment."""
    if at[:1].isdigit():
        try:
            time = datetime.fromisoformat(at)
        except ValueError as error:
            raise BadMoment(
                f"{at!r} is not a time", hint="RFC 3339, such as 2026-11-21T09:30:00Z; in a URL + is %2B"
            ) from error
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        return -((_EPOCH - time) // _MS)
    try:
        return decode(at)
    except BadToken as error:
        raise BadMoment(
            f"{at[:40]!r} is neither a time nor a position token",
            hint="RFC 3339, or the `position` of an answer",
        ) from error


def shown(ms: int) -> str:
    """A time as RFC 3339."""
    return (_EPOCH + ms * _MS).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def tails(cut: Cut) -> dict[Place, tuple[int, int]]:
    """What each place has beyond its last whole bucket."""
    begins = {place: first_of(whole_buckets(offset)) for place, offset in cut.items()}
    return {place: (begins[place], offset) for place, offset in cut.items() if begins[place] < offset}


async def gone(log: Log, place: Place, starts: Mapping[Place, int], within_s: float) -> OffsetOutOfRange:
    """The log has lost what a cut needs of a place: an error that says from when on it can be asked."""
    # The first whole buckets, and a record before each: a time then finds its place among what is there.
    firsts = {p: first_of(whole_buckets(start - 1) + 1) for p, start in starts.items() if start}
    ms = await log.stamped(firsts, within_s)
    topic, partition = place
    return OffsetOutOfRange(
        f"{topic}/{partition} begins at offset {starts[place]} by now: "
        "the records that tell how it was then are deleted",
        hint=f"it can be asked how it was since {shown(ms + 1)}"
        if ms is not None
        else "ask for a later time",
    )
