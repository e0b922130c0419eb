"""The folds over a log in memory, with crashes, rebalances, zombies and duplicates drawn from one seed.

The tasks are those that run on Kafka, step by step; only the log beneath them differs. What a seed
does it does again, so that a failure found here can be looked at as often as one likes. Mocking the
runner was rejected: then the protocol, where such faults live, would not be what is tested.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from processors.fold import Fold
from processors.versions import by_name
from schemas import catalog, topics
from schemas.codec import Codec, Decoded, Record
from schemas.envelope import Clock, Envelope, to_headers
from schemas.errors import HeadwaterError
from schemas.events import Event
from streams.folding.task import PartitionTask
from streams.partitions.log import Fenced, LogUnavailable
from streams.partitions.memory_log import MemoryLog
from streams.versions.cut_over import Asked, CutOver, proposal
from streams.versions.decisions import Decisions

_STEP_LIMIT = 200_000
_WAKE_LIMIT = 100_000
_COMMANDS = 0.3
"""Share of the actions that are a cut-over's command's, while there is one."""
_HEARD = 0.7
"""How often a worker hears of what was decided, meanwhile, before it acts."""


class NeverDone(Exception):
    """Records lead to records, or wakes to wakes, without end."""


class Crash(BaseException):
    """A worker dies here. Not an Exception, so that nothing on the way can catch it."""


@dataclass
class Chaos:
    """Probabilities of what goes wrong, an action or a step; all zero is an undisturbed run.

    `crash` ends a worker, `fault` fails a call of the log, after which the worker goes on.
    """

    crash: float = 0.0
    fault: float = 0.0
    rebalance: float = 0.0
    zombie: float = 0.0
    idle: float = 0.1
    workers: int = 3


@dataclass
class _Worker:
    decisions: Decisions
    """What it has heard of so far: each worker hears of it at another time."""
    tasks: dict[tuple[str, int], PartitionTask] = field(default_factory=dict)
    kept: dict[tuple[str, int], PartitionTask] = field(default_factory=dict)
    """Tasks whose partition went elsewhere, and may come back."""


class Simulation:
    """Produce events, run the folds to the end of the log, look at what came out.

    `folds` makes the folds under test; `partitions` is the count of every topic. `crashes`, `faults`,
    `fenced` and `steps` count what happened, the first two and the last by step's name. When `orderly`,
    wakes are given when no record is left to be folded: what comes out is then the same in each run,
    whatever came between wakes and records.
    """

    def __init__(
        self,
        folds: Callable[[], Iterable[Fold[Any]]],
        *,
        seed: int = 0,
        chaos: Chaos | None = None,
        partitions: int = 3,
        snapshot_interval_s: float = 0.01,
        codec: Codec | None = None,
        orderly: bool = False,
    ) -> None:
        self.chaos = chaos or Chaos()
        self.codec = codec or Codec()
        self.crashes: dict[str, int] = {}
        self.faults: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        self.fenced = 0
        self._random = random.Random(seed)  # noqa: S311 - a seed is what it is for
        self._folds = folds
        self._interval_s = snapshot_interval_s
        self._elapsed = 0.0
        self._armed = True
        self._orderly = orderly
        self._settling = False
        self._acted = 0
        self._wakes: dict[tuple[str, int], float | None] = {}
        self.inputs = {t.name: t for fold in folds() for t in fold.topics}
        self._installed = by_name(folds())
        beside = (topics.changelog, topics.ticks, topics.versions)
        names = set(catalog.topics()) | {name(t) for t in self.inputs for name in beside}
        self.log = MemoryLog(dict.fromkeys(names, partitions))
        self._parts = [(t, p) for t in sorted(self.inputs) for p in range(partitions)]
        self._workers = [self._worker() for _ in range(self.chaos.workers)]
        self._owner: dict[tuple[str, int], int] = {}
        self._zombies: list[PartitionTask] = []
        self._commands: list[CutOver] = []

    # --- input -------------------------------------------------------------------------------

    def produce(
        self,
        event: Event,
        *,
        id: str,
        time: float,
        project: str = "default",
        source: str = "test",
        clock: Clock = "live",
        correlation_id: str | None = None,
    ) -> Record:
        """Append an event to its topic, as a producer would."""
        key = topics.key_of(event)
        envelope = Envelope(
            id=id,
            source=source,
            type=type(event).__name__,
            time=time,
            project=project,
            clock=clock,
            correlation_id=correlation_id,
        )
        topic = topics.topic_of(type(event)).name
        return self.log.append(
            topic, f"{project}/{key}".encode(), self.codec.encode(event), to_headers(envelope)
        )

    def advance(self, seconds: float) -> None:
        """Let the broker's clock run."""
        self.log.now += seconds

    async def install(self) -> None:
        """Decide which versions are in force at first, as the first worker does."""
        counts = dict.fromkeys(self.inputs, max(self.log.partitions.values()))
        await Decisions(self.log, self.codec).establish(self._installed, counts, self.log.now)

    async def cut_over(self, fold: str, to: int, *, refold: bool = False, at_once: bool = False) -> None:
        """Give the command: it is carried out while the folds run, until `run` ends. Raises CutOverRefused."""
        decisions = Decisions(self.log, self.codec)
        await decisions.refresh()
        asked = Asked(fold, to, by="simulation", refold=refold, at_once=at_once)
        record = proposal(asked, self._installed, decisions)
        read = {t.name for t in self._installed[fold][to].topics}
        places = [tp for tp in self._parts if tp[0] in read]
        command = CutOver(record, places, self.log, self.codec, decisions, lambda: self.log.now)
        await command.begin()
        self._commands.append(command)

    # --- running -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Until every fold has folded every record and had every wake, and every cut-over is done.

        Raises NeverDone.
        """
        self._acted = 0
        for _ in range(_STEP_LIMIT):
            while waiting := await self._waiting():
                await self._act(self._random.choice(waiting))
                self._acted += 1
                if self._acted > _STEP_LIMIT:
                    raise NeverDone(f"still lagging after {_STEP_LIMIT} actions")
            self._settling = True
            try:
                for tp in self._parts:
                    while not await self._guarded(self._owner_of(tp), partial(self._settle, tp)):
                        pass
            finally:
                self._settling = False
            if not any(map(self._lag, self._parts)):
                break  # else what woke folds have written is still to be folded

    async def pass_to(self, at: float) -> None:
        """Let the broker's clock run to `at`, with a stop at each moment that a fold wants to be woken at.

        Raises NeverDone.
        """
        for _ in range(_WAKE_LIMIT):
            wake = min((w for w in self._wakes.values() if w is not None), default=None)
            if wake is None or wake > at:
                break
            self.log.now = max(self.log.now, wake)
            await self.run()
        else:
            raise NeverDone(f"still waking after {_WAKE_LIMIT} times")
        self.log.now = max(self.log.now, at)

    async def _waiting(self) -> list[tuple[str, int]]:
        """Partitions in which there is something to do."""
        waiting = [tp for tp in self._parts if self._lag(tp)]
        if self._commands and (not waiting or self._random.random() < _COMMANDS):
            waiting = await self._carry_out() or waiting
        return waiting

    async def _carry_out(self) -> list[tuple[str, int]]:
        """The eldest command's next look at the log; returns the partitions that it waits for."""
        while self._commands:
            command = self._commands[0]
            await command.look()
            if command.record.phase == "proposed":
                if command.unready:
                    return command.unready
                await command.decide()
            if command.unswitched:
                return command.unswitched
            self._commands.pop(0)
        return []

    async def _settle(self, tp: tuple[str, int]) -> None:
        """At its partition's end, a task is given the time that it waits for."""
        task = await self._task(tp)
        while True:
            await task.idle()
            wake = self._wakes[tp] = task.engine.next_wake() if task.engine else None
            if wake is None or wake > self.log.now:
                return

    def _lag(self, tp: tuple[str, int]) -> bool:
        position = self.log.positions.get(tp, 0)
        return next(self.log.visible(*tp, position), None) is not None

    async def _act(self, tp: tuple[str, int]) -> None:
        draw = self._random.random()
        owner = self._owner_of(tp)
        if draw < self.chaos.rebalance:
            self._rebalance(tp)
        elif draw < self.chaos.rebalance + self.chaos.zombie and self._zombies:
            zombie = self._random.choice(self._zombies)
            await self._guarded(None, lambda: self._haunt(zombie))
        elif draw > 1 - self.chaos.idle:
            await self._guarded(owner, lambda: self._idle(tp))
        else:
            await self._guarded(owner, lambda: self._feed(tp))

    async def _guarded(self, worker: int | None, action: Callable[[], Any]) -> bool:
        """Whether the action came to its end."""
        try:
            await action()
        except Crash:
            if worker is not None:
                self._workers[worker] = self._worker()  # its memory is gone; another takes its place
                for tp in [tp for tp, w in self._owner.items() if w == worker]:
                    del self._owner[tp]
        except Fenced:
            self.fenced += 1
        except LogUnavailable:
            pass  # counted where it was raised; the task starts over when it is next needed
        else:
            return True
        return False

    def _worker(self) -> _Worker:
        return _Worker(Decisions(self.log, self.codec))

    def _owner_of(self, tp: tuple[str, int]) -> int:
        if tp not in self._owner:
            self._owner[tp] = self._random.randrange(len(self._workers))
        return self._owner[tp]

    def _rebalance(self, tp: tuple[str, int]) -> None:
        worker = self._workers[self._owner_of(tp)]
        old = worker.tasks.pop(tp, None)
        if old is not None and self._random.random() < 0.5:
            worker.kept[tp] = old
        elif old is not None:
            self._zombies = [*self._zombies[-3:], old]
        self._owner[tp] = self._random.randrange(len(self._workers))
        self.log.prompt = self._random.random() < 0.5

    async def _task(self, tp: tuple[str, int]) -> PartitionTask:
        worker = self._workers[self._owner_of(tp)]
        task = worker.tasks.get(tp)
        if task is None or task.engine is None:
            task = task or worker.kept.pop(tp, None) or self._make(tp, worker.decisions)
            worker.tasks[tp] = task
            try:
                await task.assign()
            except HeadwaterError:
                await task.discard()
                raise
        return task

    def _make(self, tp: tuple[str, int], decisions: Decisions) -> PartitionTask:
        topic, partition = tp

        def of_topic() -> list[Fold[Any]]:
            return [f for f in self._folds() if topic in {t.name for t in f.topics}]

        return PartitionTask(
            self.inputs[topic],
            partition,
            of_topic,
            self.log,
            codec=self.codec,
            secret=b"simulation",
            step=self._step,
            now=self._now,
            monotonic=self._monotonic,
            snapshot_interval_s=self._interval_s,
            decisions=decisions,
            near=0,  # else no history is long enough to be folded in slices
        )

    def _now(self) -> float:
        return self.log.now if self._settling or not self._orderly else float("-inf")

    def _monotonic(self) -> float:
        self._elapsed += 0.0007  # so that a round of snapshots spreads over batches, the same ones each time
        return self._elapsed

    async def _heard(self, tp: tuple[str, int]) -> PartitionTask:
        """The partition's task; its worker may just have heard what was decided."""
        task = await self._task(tp)
        if self._commands and self._random.random() < _HEARD:
            await self._workers[self._owner_of(tp)].decisions.refresh()
        return task

    async def _feed(self, tp: tuple[str, int]) -> None:
        task = await self._heard(tp)
        await task.handle(self._next(task, self._random.randint(1, 5)))

    async def _idle(self, tp: tuple[str, int]) -> None:
        await (await self._heard(tp)).idle()

    async def _haunt(self, zombie: PartitionTask) -> None:
        """A worker that was paused and does not know that it was replaced goes on."""
        if zombie.engine is not None:
            await zombie.handle(self._next(zombie, 2))

    def _next(self, task: PartitionTask, count: int) -> list[Record]:
        return list(islice(self.log.visible(task.topic.name, task.partition, task.position), count))

    def _step(self, name: str) -> None:
        self.steps[name] = self.steps.get(name, 0) + 1
        if self._armed and self._random.random() < self.chaos.crash:
            self.crashes[name] = self.crashes.get(name, 0) + 1
            raise Crash
        if self._armed and self.chaos.fault and self._random.random() < self.chaos.fault:
            self.faults[name] = self.faults.get(name, 0) + 1
            raise LogUnavailable(f"a fault at {name}")

    # --- what came out -----------------------------------------------------------------------

    def outputs(self, topic: str) -> Iterator[Decoded]:
        """Every committed event of a topic, partition by partition."""
        for partition in range(self.log.partitions[topic]):
            for record in self.log.records(topic, partition):
                yield self.codec.decode_record(record)

    def contents(self, topic: str) -> list[tuple[bytes | None, bytes | None, Any]]:
        """A topic's records as bytes, in an order that does not depend on how partitions interleaved."""
        found = [
            (r.key, r.value, tuple(r.headers))
            for p in range(self.log.partitions[topic])
            for r in self.log.records(topic, p)
        ]
        return sorted(found, key=lambda record: (record[0] or b"", record[1] or b"", record[2]))

    def held(self) -> dict[tuple[str, str], Any]:
        """State by (fold, key), as the workers have it in memory."""
        tasks = [self._workers[self._owner_of(tp)].tasks.get(tp) for tp in self._parts]
        slots = [slot for task in tasks if task is not None for slot in task.slots]
        return {(slot.fold.name, key): state for slot in slots for key, state in slot.unpacked().items()}

    async def states(self) -> dict[tuple[str, str], Any]:
        """State by (fold, key), read from a fresh restore of every partition."""
        self._armed = False
        found: dict[tuple[str, str], Any] = {}
        for tp in self._parts:
            task = self._make(tp, Decisions(self.log, self.codec))
            await task.assign()
            assert task.engine is not None
            for slot in task.engine.slots:
                found.update({(slot.fold.name, key): state for key, state in slot.unpacked().items()})
            self._workers[self._owner_of(tp)].tasks.pop(tp, None)
        self._armed = True
        return found
