"""What the runner needs of a log. Two implement it: Kafka (`kafka_log`) and memory (`memory_log`)."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

import msgspec

from schemas.codec import Record
from schemas.envelope import Headers
from schemas.errors import HeadwaterError, OffsetOutOfRange

FOLDS = "folds"
"""The folds' consumer group, without namespace."""
Step = Callable[[str], None]
"""Called at every named step of the protocol; the simulation and the kill tests crash there."""


class Send(msgspec.Struct, frozen=True):
    """A record to be written. `partition` None: by key. A `value` of None is a tombstone."""

    topic: str
    key: bytes
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


class Fenced(HeadwaterError):
    """Another worker has taken the partition over; nothing of this transaction was written."""

    category = "TEMPORARY"


class LogUnavailable(HeadwaterError):
    """The log failed in a way that leaves a transaction's outcome to be read from it."""

    category = "TEMPORARY"


class Transactions(Protocol):
    """The right to write for one input partition, until somebody else is given it."""

    async def commit(self, sends: Sequence[Send], next_offset: int) -> None:
        """Write all of `sends` and the input position, or nothing. Raises Fenced or LogUnavailable."""

    async def close(self) -> None:
        """Give it back; an open transaction is left for the next owner to abort."""


class Log(Protocol):
    """An ordered, partitioned log with consumer groups' positions and transactions."""

    async def fence(self, topic: str, partition: int, step: Step) -> Transactions:
        """Take over the partition: whoever wrote for it before is fenced, his open transaction aborted."""

    async def committed(self, topic: str, partition: int) -> int | None:
        """The group's committed next offset."""

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset there is, and the end that a read_committed reader can reach."""

    def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncGenerator[Sequence[Record], None]:
        """Committed records with start <= offset < end, in order; ends by position."""

    async def post(self, send: Send) -> None:
        """Write one record outside any transaction. Raises LogUnavailable; it may stand there all the same."""


def require_in_log(topic: str, partition: int, committed: int | None, first: int, end: int) -> None:
    """Raise OffsetOutOfRange where the group's position is not in the log, which goes from `first` to `end`."""
    if committed is not None and not first <= committed <= end:
        raise OffsetOutOfRange(
            f"{topic}/{partition}: read up to {committed}, but the log has {first} to {end}",
            hint="records that nobody here has seen were removed, or the topic was made anew: "
            "reset the group's position on purpose",
        )


def crash_points() -> Step:
    """For kill tests: HEADWATER_CRASH_AT=`step:count` kills this process there, as SIGKILL would."""
    wanted = os.environ.get("HEADWATER_CRASH_AT")
    if not wanted:
        return lambda _: None
    name, _, number = wanted.rpartition(":")
    left = int(number)

    def step(reached: str) -> None:
        nonlocal left
        if reached == name:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return step
