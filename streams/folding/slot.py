"""One fold in one partition: its states, and what is measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from processors.fold import Fold
from streams.folding.snapshots import Snapshot, SnapshotRefused, load_state


class Spoilt(Exception):
    """An engine's state is no longer what the log says: build it anew."""


class Unreadable(Spoilt):
    """A key's snapshot cannot be loaded: the fold's states are to be folded anew from the log."""

    def __init__(self, fold: str, key: str, cause: SnapshotRefused) -> None:
        super().__init__(f"fold {fold}, key {key}: {cause}")
        self.fold = fold


class FoldStats:
    """What is measured of one fold in one partition; it outlives engines, so that counters never fall."""

    def __init__(self) -> None:
        self.events = self.outputs = self.nanoseconds = self.dead_letters = 0


class Slot:
    """One fold in one partition: its states by key, and what is measured of it."""

    def __init__(self, fold: Fold[Any], term: int = 0) -> None:
        self.fold = fold
        self.term = term
        """How many switches of its version there were in this partition."""
        self.states: dict[str, Any] = {}
        self.packed: dict[str, Snapshot] = {}
        """States as they were saved, of keys that had no event since: to load them all takes seconds,
        for which nothing would be processed after a failure."""
        self.dirty: dict[str, None] = {}
        """Keys changed since they were last saved, in an order that every run repeats."""
        self.covered: dict[str, int] = {}
        """While restoring: the position up to which a key's snapshot holds, where that is beyond `floor`."""
        self.floor = 0
        """While restoring: every change of this fold below this offset is in the snapshots."""
        self.stats = FoldStats()

    @property
    def keys(self) -> int:
        """How many keys have a state."""
        return len(self.states) + len(self.packed)

    def unpack(self, key: str) -> None:
        """See to it that the key's state, if it has one, is in `states`. Raises Unreadable."""
        snapshot = self.packed.get(key)
        if snapshot is None:
            return
        assert self.fold.state is not None
        try:
            self.states[key] = load_state(self.fold.state, snapshot)
        except SnapshotRefused as error:
            raise Unreadable(self.fold.name, key, error) from error
        del self.packed[key]

    def unpacked(self) -> Mapping[str, Any]:
        """All states by key, loaded. Raises Unreadable."""
        for key in list(self.packed):
            self.unpack(key)
        return self.states
