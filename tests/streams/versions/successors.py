"""Later versions of the folds under test, and what versions should have made of a log, told without the runner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

from processors.fold import Fold, Output, Wake
from processors.versions import Versions, by_name
from schemas import events as e
from schemas import topics
from schemas.codec import Codec, Record
from schemas.envelope import Headers
from streams.folding.engine import Engine
from streams.partitions.log import Send
from tests.streams.folds import Chain, Echo, Learned, Links, Model, Silence, Watch, found, value_of

Seen = tuple[bytes | None, bytes | None, Headers]
"""An output as a reader sees it."""


class Chain2(Chain):
    """Counts otherwise, and answers every third signal."""

    version = 2

    def on_event(self, state: Links, event: e.Event, at: float) -> Iterable[Output]:
        state.count += 1
        state.digest = (state.digest * 37 + int(value_of(event)) + int(at)) % 1_000_003
        if state.count % 3 == 0:
            yield found(state.component, self.name, state.digest, -state.count)


class Tally(Links):
    """What Chain3 knows of a component."""

    total: float = 0.0
    inherited: str = ""


class Chain3(Chain):
    """Has another state, which it can make of its predecessors'."""

    version = 3
    state = Tally
    migrates: ClassVar[tuple[int, ...]] = (1, 2)

    def initial(self, key: str) -> Tally:
        return Tally(key.partition("/")[2])

    def migrate(self, old: Any, version: int) -> Tally:
        return Tally(old.component, old.count, old.digest, 0.0, f"{version}:{old.count}")

    def on_event(self, state: Links, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(state, Tally)
        state.count += 1
        state.total += value_of(event)
        yield found(state.component, self.name, state.digest, state.total, state.inherited)


class Silence2(Silence):
    """Has less patience, and remembers what it heard."""

    version = 2
    migrates: ClassVar[tuple[int, ...]] = (1,)

    def migrate(self, old: Watch, version: int) -> Watch:
        return Watch(old.component, old.value, old.silences, old.digest + version)

    def on_event(self, state: Watch, event: e.Event, at: float) -> Iterable[Output]:
        state.value, state.silences = value_of(event), 0
        state.digest = (state.digest * 41 + int(at)) % 1_000_003
        yield Wake(at + 20)

    def on_wake(self, state: Watch, at: float) -> Iterable[Output]:
        state.silences += 1
        yield found(state.component, self.name, state.digest, at, f"after {state.silences}")
        if state.silences < 3:
            yield Wake(at + 20)


class Echo2(Echo):
    """Answers twice."""

    version = 2

    def on_event(self, state: None, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        yield found(event.component, self.name, value_of(event), at)
        yield found(event.component, self.name, -value_of(event), at)


class Learned2(Learned):
    """Starts out from other models."""

    version = 2

    def initial(self, key: str) -> Model:
        from river import anomaly, stats

        return Model(anomaly.HalfSpaceTrees(n_trees=2, height=3, window_size=5, seed=2), stats.EWMean(0.5))


def every_version() -> list[Fold[Any]]:
    """All of them, behind intake."""
    from processors.intake import Intake

    return [
        *(Intake(), Chain(), Chain2(), Chain3()),
        *(Learned(), Learned2(), Silence(), Silence2(), Echo(), Echo2()),
    ]


class Told:
    """What the versions of the folds that read `signals` make of one partition, from its log and its switches alone.

    A version that folds anew has been given the whole log; one that migrates goes on with a copy of
    what its predecessor had at the switch. Each says what it says between its own switch and the next.
    `read` gives all records of a topic's partition; `base` are the versions that the log began with;
    records from `until` on have not been folded yet. `late` moves every switch behind the next record:
    no such account may hold.
    """

    def __init__(
        self,
        read: Callable[[str], Sequence[Record]],
        partition: int,
        installed: Mapping[str, Versions],
        base: Mapping[str, int],
        *,
        late: bool = False,
        until: int = 2**62,
    ) -> None:
        self._codec = Codec()
        self._records = [r for r in read(topics.SIGNALS.name) if r.offset < until]
        self._partition = partition
        ticks = [self._codec.decode(r.value) for r in read(topics.ticks("signals"))]
        self._ticks = [tick for tick in ticks if isinstance(tick, e.Tick)]
        facts = [self._codec.decode(r.value) for r in read(topics.versions("signals"))]
        self.facts = [fact for fact in facts if isinstance(fact, e.FoldSwitched)]
        self.outputs: list[Seen] = []
        self.states: dict[tuple[str, str], Any] = {}
        for name, versions in installed.items():
            if "signals" in {t.name for t in next(iter(versions.values())).topics}:
                self._tell(name, versions, base[name], late)

    def _tell(self, name: str, versions: Versions, base: int, late: bool) -> None:
        facts = [fact for fact in self.facts if fact.fold == name]
        switches = [(self._behind(fact.position) if late else fact.position, fact.clock) for fact in facts]
        begins = [(0, -1.0), *switches, (2**62, 0.0)]
        engine = self._engine(versions[base])
        for fact, begin, end in zip([None, *facts], begins[:-1], begins[1:], strict=True):
            if fact is not None and fact.state == "migrate":
                engine = self._migrated(engine, versions[fact.version], fact.from_version)
                self._run(engine, begin, begin, end)
            elif fact is not None:
                engine = self._engine(versions[fact.version])
                self._run(engine, (0, -1.0), begin, end)
            else:
                self._run(engine, begin, begin, end)
        (slot,) = engine.slots
        self.states.update({(name, key): state for key, state in slot.states.items()})

    def _behind(self, position: int) -> int:
        return next((r.offset + 1 for r in self._records if r.offset >= position), position)

    def _engine(self, fold: Fold[Any]) -> Engine:
        return Engine(topics.SIGNALS, self._partition, [fold], self._codec)

    def _migrated(self, old: Engine, fold: Fold[Any], version: int) -> Engine:
        new = self._engine(fold)
        new.slots[0].states = {
            key: fold.migrate(deepcopy(state), version) for key, state in old.slots[0].states.items()
        }
        new.wakes, new.clocks, new._window = old.wakes, dict(old.clocks), old._window
        return new

    def _run(
        self,
        engine: Engine,
        start: tuple[int, float],
        begin: tuple[int, float],
        end: tuple[int, float],
    ) -> None:
        """Everything from `start` to `end`; what it says from `begin` on counts."""
        given: list[tuple[tuple[int, float], bool, Any]] = [
            ((tick.after_offset, tick.at), True, tick) for tick in self._ticks
        ]
        given += [((record.offset, float("inf")), False, record) for record in self._records]
        for place, is_tick, what in sorted(given, key=lambda g: g[0]):
            # A tick as late as the switch's clock came before it; so did records below its position.
            if is_tick:
                early, late = place <= start, place > end
            else:
                early, late = place[0] < start[0], place[0] >= end[0]
            if early or late:
                continue
            said = engine.tick(what.at) if is_tick else engine.process([what])
            counts = place > begin if is_tick else place[0] >= begin[0]
            if counts:
                self.outputs += [as_seen(send) for send in said]


def as_seen(send: Send) -> Seen:
    """As a reader sees it."""
    return send.key, send.value, tuple(send.headers)


def versions_in(outputs: Sequence[Seen]) -> Counter[tuple[str, int]]:
    """How many outputs each version of each fold made."""
    said = [dict(headers) for _, _, headers in outputs]
    return Counter((h["ce_source"].decode().rpartition("/")[2], int(h["ce_foldversion"])) for h in said)


INSTALLED = by_name(every_version())
