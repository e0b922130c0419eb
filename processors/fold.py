"""The one shape of every processor: (state of one key, event) -> new events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from schemas.events import Event
from schemas.topics import Topic

S = TypeVar("S")


class Wake(msgspec.Struct, frozen=True):
    """Asks to be woken once for this key, at `at` (seconds since 1970) or soon after; the last one counts."""

    at: float


Output = Event | Wake


class Fold(Generic[S]):
    """A deterministic processor of keyed events.

    The runner owns the state, one per key, and gives ids, time, project and correlation to what
    the fold yields. A fold that keeps no state leaves `state` as None. State is a `msgspec.Struct`
    of MessagePack values; fields typed `Any` may hold river models. Bump `version` whenever the
    same input would give another output or another state: the log is then folded anew. Keep the
    old class installed beside the new one, and the new one comes into force by a cut-over.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    topics: ClassVar[tuple[Topic, ...]]
    accepts: ClassVar[tuple[type[Event], ...]]
    emits: ClassVar[tuple[type[Event], ...]] = ()
    state: ClassVar[type[msgspec.Struct] | None] = None
    migrates: ClassVar[tuple[int, ...]] = ()
    """Versions whose state `migrate` makes this version's of; from others the log is folded anew."""

    def initial(self, key: str) -> S:
        """State of a key at its first event."""
        raise NotImplementedError(f"{self.name} keeps no state")

    def on_event(self, state: S, event: Event, at: float) -> Iterable[Output]:
        """Take one event of event time `at` (seconds since 1970); change the state, yield what follows."""
        raise NotImplementedError(f"{self.name}.on_event")

    def on_wake(self, state: S, at: float) -> Iterable[Output]:
        """The time asked for by `Wake` has come; `at` is the project's clock."""
        return ()

    def migrate(self, old: Any, version: int) -> S:
        """This version's state of a key, made of the one that `version` left; wakes asked for stay asked for."""
        raise NotImplementedError(f"{self.name}.migrate")
