"""What a reactor intends and has done in one partition, and which effects are to be tried when. No I/O.

Why it is made so. A call takes as long as its target likes, and a partition must not wait for it: so
a record is done with when its effects are written down, and they are carried out apart from its
order. Each target has a few places of its own, so that one that hangs holds up its own effects
alone; one that fails again and again is asked with one call now and then until it answers.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Literal

import msgspec

from schemas.codec import Record
from streams.reactors.reactor import Effect

State = Literal["waiting", "intended", "done"]
Outcome = Literal["succeeded", "failed", "unknown", "dropped"]
KEEP_S = 7 * 24 * 3600.0
"""So long a finished effect is remembered; an event that is delivered again after it acts again."""
MOST_WAITING = 1_000
"""Effects of one target that may be unfinished at once, and"""
MOST_BYTES = 64 * 1024 * 1024
"""bytes of all records that effects are unfinished for."""
MOST_CALLS = 512
FAILURES = 5
"""So many failed calls in a row, and a target is asked with one call at a time, with pauses."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_FORGET_AT_ONCE = 200


class Entry(msgspec.Struct, array_like=True):
    """One effect. `at`: not before (waiting), or since (seconds since 1970); `base`: calls before a replay."""

    id: str
    state: State
    attempt: int
    at: float
    target: str
    effect: Effect | None = None
    record: Record | None = None
    """The record that called for the effect, whole; this and `effect` are None once it is done."""
    outcome: Outcome | None = None
    base: int = 0

    @property
    def size(self) -> int:
        """Bytes, roughly, that it takes while it is not done."""
        if self.effect is None or self.record is None:
            return 0
        return 1_000 + len(self.effect.request) + len(self.record.value or b"")


class _Target:
    """Calls under way, effects that wait for a place, and how it has been answering."""

    def __init__(self) -> None:
        self.calls = self.unfinished = self.failures = 0
        self.paused_until = 0.0
        self.parked: deque[str] = deque()


class Ledger:
    """All effects of one partition that are unfinished, or were finished within KEEP_S."""

    def __init__(self, concurrency: int) -> None:
        self.entries: dict[str, Entry] = {}
        self.calls = 0
        self.bytes = 0
        self._concurrency = concurrency
        self._targets: dict[str, _Target] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._number = count()
        self._parked: deque[str] = deque()
        self._done: deque[tuple[float, str]] = deque()

    @property
    def unfinished(self) -> int:
        """Effects that are not done."""
        return sum(t.unfinished for t in self._targets.values())

    def restore(self, entries: Iterable[Entry]) -> None:
        """Take over what was written; what was intended counts as being called until it is settled."""
        for entry in sorted(entries, key=lambda e: e.at):
            self.entries[entry.id] = entry
            if entry.state == "done":
                self._done.append((entry.at, entry.id))
                continue
            self._count(entry)
            if entry.state == "waiting":
                self._push(entry.at, entry.id)
            else:
                self._target(entry).calls += 1
                self.calls += 1

    def has_room(self, entry: Entry) -> bool:
        """Whether the entry's effect may wait here, too."""
        target = self._targets.get(entry.target)
        return (target is None or target.unfinished < MOST_WAITING) and self.bytes + entry.size <= MOST_BYTES

    def plan(self, entry: Entry) -> None:
        """Add an effect that waits, in place of what was known of its id."""
        self.entries[entry.id] = entry
        self._count(entry)
        self._push(entry.at, entry.id)

    def due(self, now: float) -> Iterator[Entry]:
        """Effects to be called now: each is intended when it is given."""
        while self._heap and self._heap[0][0] <= now:
            _, _, id_ = heapq.heappop(self._heap)
            entry = self.entries[id_]
            target = self._target(entry)
            if target.paused_until > now:
                self._push(target.paused_until, id_)
            elif target.calls >= (1 if target.failures >= FAILURES else self._concurrency):
                target.parked.append(id_)
            elif self.calls >= MOST_CALLS:
                self._parked.append(id_)
            else:
                target.calls += 1
                self.calls += 1
                entry.state, entry.at = "intended", now
                entry.attempt += 1
                yield entry

    def next_due(self) -> float | None:
        """When `due` may give something next, if no call ends before."""
        return self._heap[0][0] if self._heap else None

    def wait(self, entry: Entry, until: float, now: float) -> None:
        """The call did not succeed: another one is due at `until`."""
        target = self._called(entry)
        target.failures += 1
        over = target.failures - FAILURES
        if over >= 0:
            target.paused_until = now + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(over, 16))
        self._unpark(target, 1, now)
        entry.state, entry.at = "waiting", until
        self._push(until, entry.id)

    def finish(self, entry: Entry, outcome: Outcome, now: float) -> None:
        """Nothing more will be tried."""
        target = self._called(entry)
        if outcome == "succeeded":
            target.failures = 0
        target.unfinished -= 1
        self.bytes -= entry.size
        self._unpark(target, self._concurrency - target.calls, now)
        if not target.unfinished:
            del self._targets[entry.target]
        entry.state, entry.at, entry.outcome = "done", now, outcome
        entry.effect = entry.record = None
        self._done.append((now, entry.id))

    def refuse(self, entry: Entry, now: float) -> None:
        """An effect that there is no room for."""
        entry.state, entry.at, entry.outcome = "done", now, "failed"
        entry.effect = entry.record = None
        self.entries[entry.id] = entry
        self._done.append((now, entry.id))

    def forget(self, now: float) -> list[str]:
        """Ids of what was done so long ago that it need not be known any more; some at a time."""
        gone: list[str] = []
        while self._done and self._done[0][0] < now - KEEP_S and len(gone) < _FORGET_AT_ONCE:
            at, id_ = self._done.popleft()
            entry = self.entries[id_]
            if entry.state == "done" and entry.at == at:  # else it was replayed since
                del self.entries[id_]
                gone.append(id_)
        return gone

    def _target(self, entry: Entry) -> _Target:
        return self._targets.setdefault(entry.target, _Target())

    def _count(self, entry: Entry) -> None:
        self._target(entry).unfinished += 1
        self.bytes += entry.size

    def _called(self, entry: Entry) -> _Target:
        """The target, with one call less."""
        target = self._target(entry)
        target.calls -= 1
        self.calls -= 1
        return target

    def _unpark(self, target: _Target, places: int, now: float) -> None:
        """Let effects that waited for a place try again: of the target, and one of any that lacked one here."""
        for _ in range(min(places, len(target.parked))):
            self._push(now, target.parked.popleft())
        if self._parked:
            self._push(now, self._parked.popleft())

    def _push(self, at: float, id_: str) -> None:
        heapq.heappush(self._heap, (at, next(self._number), id_))
