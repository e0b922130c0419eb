"""The shape of a reactor: events in, effects out, and each effect carried out by a call.

`effects` says what an event calls for and does nothing. The host writes that down, and only then
asks `perform` to do it; what came of it is written down as well. Errors say how it goes on:

| raised by `perform` | what it means | an idempotent effect | another one |
|---|---|---|---|
| `NotActed`, or another retriable HeadwaterError | nothing happened | tried again | tried again |
| `OutcomeUnknown`, OSError, a call cut off | it may have happened | tried again | `unknown`, a dead letter |
| `NotWanted` | nobody wants it any more | `dropped` | `dropped` |
| anything else | it never will | `failed`, a dead letter | `failed`, a dead letter |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import msgspec

from schemas.envelope import Envelope
from schemas.errors import HeadwaterError
from schemas.events import Event
from schemas.topics import Topic

if TYPE_CHECKING:
    from streams.settings import Settings


class NotActed(HeadwaterError):
    """The target did nothing: try again, after `after_s` seconds where it said so."""

    category = "TEMPORARY"

    def __init__(self, message: str, *, hint: str = "", after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.after_s = after_s


class OutcomeUnknown(HeadwaterError):
    """The call may have acted: only an idempotent effect may be tried again."""

    category = "TEMPORARY"


class NotWanted(HeadwaterError):
    """What the effect is for is gone: nothing was done, and nobody misses it."""


class Effect(msgspec.Struct, frozen=True, array_like=True):
    """One act that an event calls for.

    `key` tells it from the event's other effects of this reactor; `target` is what is acted on:
    calls of one target do not hold up those of others. `request` is what the call needs beyond the event.
    """

    key: str
    target: str
    request: bytes = b""
    idempotent: bool = False


class Call(NamedTuple):
    """What `perform` is to do. `id` is the idempotency key: the same however often it is tried."""

    id: str
    effect: Effect
    attempt: int
    event: Event
    envelope: Envelope


class Done(NamedTuple):
    """The target acted. `events` are written together with that; they have to be of the reactor's `emits`."""

    detail: str = ""
    events: tuple[Event, ...] = ()


class Backoff(NamedTuple):
    """When an effect that failed in passing is tried again: seconds, growing by `factor`."""

    first_s: float = 1.0
    factor: float = 3.0
    longest_s: float = 6 * 3600.0
    attempts: int = 12
    """Calls before it is given up. With these numbers: 14 hours."""

    def after(self, failed: int, spread: float) -> float:
        """Seconds to wait after the `failed`-th call; `spread` (0 to 1) keeps a crowd from coming at once."""
        # The exponent is bounded: a float overflows long before anybody waits that long.
        return min(self.longest_s, self.first_s * self.factor ** min(failed - 1, 64)) * (0.8 + 0.4 * spread)


class Reactor:
    """Acts on what events call for.

    It begins with what is written after its first start, unless `begins` is "start": then with the
    log's first record. Every method runs on one event loop, so `perform` must not block.
    """

    name: ClassVar[str]
    topics: tuple[Topic, ...]
    accepts: tuple[type[Event], ...]
    emits: ClassVar[tuple[type[Event], ...]] = ()
    begins: ClassVar[Literal["start", "end"]] = "end"
    concurrency: ClassVar[int] = 4
    """Calls of one target at a time, in one partition."""
    timeout_s: ClassVar[float] = 30.0
    """A call that takes longer is cut off."""
    backoff: ClassVar[Backoff] = Backoff()

    async def open(self, settings: Settings) -> None:
        """Connect what calls need; before anything else."""

    async def close(self) -> None:
        """Disconnect."""

    def effects(self, event: Event, envelope: Envelope, at: float) -> Iterable[Effect]:
        """What an event that the broker took at `at` (seconds since 1970) calls for; may be nothing."""
        raise NotImplementedError(f"{self.name}.effects")

    async def perform(self, call: Call) -> Done:
        """Do it."""
        raise NotImplementedError(f"{self.name}.perform")
