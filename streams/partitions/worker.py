"""A worker: one member of a consumer group, and the partition tasks that it is given.

aiokafka hands out records before `on_partitions_assigned` has returned, so nothing is processed
before its task is ready: until then the partition is paused and what arrives is dropped, and the
task seeks to its own position when it has it. Tasks outlive a rebalance: one whose partition comes
back, and whose state still stands at the committed position, goes on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, Protocol, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from schemas.codec import Record
from schemas.errors import HeadwaterError
from streams.kafka import client_options, connect, records_of
from streams.obstacles import hopeless
from streams.partitions.assignor import EvenAssignor
from streams.partitions.log import Step
from streams.settings import Settings

log = structlog.get_logger()
SESSION_TIMEOUT_MS = 6_000
BATCH = 1_000
"""Records folded in one transaction at most: so few that heartbeats get their turn."""
_FETCH_WAIT_MS = 200
_FULL_S = 0.01
"""While a pump has enough, it is asked this often whether it wants more."""
_FETCH_REST_S = 0.005
"""A fetch that brought little is followed by a rest, so that the next brings more: each costs 1 ms of CPU."""
_LONGEST_REST_S = 0.1
_IDLE_S = 1.0
_SETTLE_S = 0.05
"""After this long without records, the position is moved past the commit markers that end them."""
_RETRY_S = 0.5
_SUSPEND_S = 8.0


class Task(Protocol):
    """What is done with one partition. Whatever `handle` or `idle` raises, the task is discarded and assigned anew."""

    restore_s: float
    """How long the last `assign` took to bring its state back, seconds."""

    @property
    def position(self) -> int:
        """Offset of the next record that it wants."""

    async def assign(self) -> None:
        """Take the partition over: fence, read the position, restore."""

    async def handle(self, records: Sequence[Record]) -> None:
        """Take records in order, and commit."""

    async def idle(self, position: int = 0) -> None:
        """Do what is due without a record; `position` is where a reader stands that has met none since."""

    async def suspend(self) -> None:
        """The partition may go elsewhere in a moment: bring to an end what can be ended soon."""

    async def discard(self) -> None:
        """Throw state and right to write away."""


T = TypeVar("T", bound=Task)


class Pump(Generic[T]):
    """Feeds one task: brings it up, gives it batches, and starts over when the log faults."""

    def __init__(self, task: T, tp: TopicPartition, consumer: AIOKafkaConsumer) -> None:
        self.task = task
        self.tp = tp
        self.ready = False
        self.failure: BaseException | None = None
        self._consumer = consumer
        self._inbox: deque[Record] = deque()
        self._arrived = asyncio.Event()
        self._stopping = self._settled = self._nudged = False
        self._rested_at = 0.0
        self._runner = asyncio.create_task(self._run(), name=f"pump {tp.topic}/{tp.partition}")

    @property
    def hungry(self) -> bool:
        """Whether it wants more. Records wait in the consumer as bytes, where they are no objects yet."""
        return self.ready and len(self._inbox) < BATCH

    def offer(self, records: list[Record]) -> None:
        """Take what was fetched; dropped while the task is not ready, since it will seek."""
        if not self.ready:
            return
        self._inbox.extend(records)
        self._arrived.set()

    def nudge(self) -> None:
        """The task has something to commit that no record led to: give it a turn soon."""
        self._nudged = True
        self._arrived.set()

    async def stop(self) -> None:
        """Let the batch in hand be committed, then stop. What hangs is cut off and its state discarded."""
        self._stopping = True
        self._arrived.set()
        done, _ = await asyncio.wait({self._runner}, timeout=_SUSPEND_S)
        if not done:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
            await self.task.discard()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._bring_up()
                while not self._stopping:
                    await self._once()
                await self.task.suspend()
            except HeadwaterError as error:
                log.warning("task.restart", topic=self.tp.topic, partition=self.tp.partition, why=str(error))
                await self._down()
                if not error.retriable:
                    self.failure = error
                    return
                await asyncio.sleep(_RETRY_S)
            except Exception as error:
                # A fault of ours: state may be anything, the log is right. Anew, and seen in the log.
                log.exception("task.fault", topic=self.tp.topic, partition=self.tp.partition)
                await self._down()
                self.failure = error
                return
        self.ready = False

    async def _bring_up(self) -> None:
        await self.task.assign()
        self._inbox.clear()
        self._consumer.seek(self.tp, self.task.position)
        self._consumer.resume(self.tp)
        self.ready = True
        log.info(
            "task.ready",
            topic=self.tp.topic,
            partition=self.tp.partition,
            position=self.task.position,
            restore_s=round(self.task.restore_s, 3),
        )

    async def _down(self) -> None:
        self.ready = False
        self._inbox.clear()
        if self.tp in self._consumer.assignment():
            self._consumer.pause(self.tp)
        await self.task.discard()

    async def _once(self) -> None:
        if not self._inbox:
            await self._wait()
            return
        await asyncio.sleep(self._rested_at - time.monotonic())
        batch = [self._inbox.popleft() for _ in range(min(BATCH, len(self._inbox)))]
        began = time.monotonic()
        await self.task.handle(batch)
        if len(batch) < BATCH:
            # As long as the transaction took: partitions that commit whenever they can take all the
            # CPU there is from the broker, and then each waits longer for the others than it rests here.
            now = time.monotonic()
            self._rested_at = now + min(now - began, _LONGEST_REST_S)

    async def _wait(self) -> None:
        """For records; meanwhile, do what is due without one."""
        self._arrived.clear()
        if not self._nudged:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), _IDLE_S if self._settled else _SETTLE_S)
        self._nudged = False
        if self._inbox or self._stopping:
            self._settled = False
            return
        position = await self._consumer.position(self.tp)
        if not self._inbox:
            await self.task.idle(position)
            self._settled = True


class Worker(ConsumerRebalanceListener, Generic[T]):  # type: ignore[misc]  # aiokafka ships no types
    """Runs the tasks of the partitions that the group gives to this process."""

    def __init__(
        self,
        settings: Settings,
        group: str,
        topics: Collection[str],
        make_task: Callable[[str, int], T],
        step: Step = lambda _: None,
    ) -> None:
        self.settings = settings
        self.pumps: dict[TopicPartition, Pump[T]] = {}
        self._kept: dict[TopicPartition, T] = {}
        self._group = group
        self._topics = [settings.named(t) for t in topics]
        self._make_task = make_task
        self._step = step
        self._consumer: AIOKafkaConsumer | None = None

    @property
    def ready(self) -> bool:
        """Whether every partition that it was given is being processed."""
        return bool(self.pumps) and all(p.ready for p in self.pumps.values())

    def lag(self, tp: TopicPartition) -> int:
        """Offsets between the task's position and the last that a read_committed reader may see."""
        pump = self.pumps.get(tp)
        if pump is None or not pump.ready or self._consumer is None:
            return 0
        end = self._consumer.last_stable_offset(tp)
        return max(0, end - pump.task.position) if end is not None else 0

    def nudge(self, topic: str, partition: int) -> None:
        """A task has something to commit that no record led to."""
        pump = self.pumps.get(TopicPartition(self.settings.named(topic), partition))
        if pump is not None:
            pump.nudge()

    def nudge_all(self) -> None:
        """Every task may have."""
        for pump in self.pumps.values():
            pump.nudge()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; raises what is beyond retrying."""
        consumer = self._consumer = AIOKafkaConsumer(
            **client_options(self.settings),
            group_id=self.settings.named(self._group),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=500,
            # Progress is the pumps' business; a member without partitions must not be thrown out.
            max_poll_interval_ms=24 * 3600 * 1000,
            rebalance_timeout_ms=20_000,
            partition_assignment_strategy=[EvenAssignor],
            max_partition_fetch_bytes=1024 * 1024,
            fetch_max_wait_ms=500,
        )
        await connect(self.settings, consumer, 60.0)
        consumer.subscribe(self._topics, listener=self)
        try:
            while not stop.is_set():
                await self._fetch(consumer)
        finally:
            await self._stop_pumps()
            await self._discard_kept(())
            await consumer.stop()

    async def _fetch(self, consumer: AIOKafkaConsumer) -> None:
        """One round: what has come, to the pumps. Nothing may wait in between: a pump could be another's by then."""
        fetched = await self._ask(consumer)
        for tp, messages in fetched.items():
            pump = self.pumps.get(tp)
            if pump is not None:
                pump.offer(records_of(messages, self.settings.namespace))
        for pump in self.pumps.values():
            if pump.failure is not None:
                raise pump.failure
        if 0 < sum(map(len, fetched.values())) < BATCH:
            await asyncio.sleep(_FETCH_REST_S)

    async def _ask(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, list[Any]]:
        """Records for the pumps that want some; none after a fault that passes or was seen to."""
        hungry = [tp for tp, pump in self.pumps.items() if pump.hungry]
        if self.pumps and not hungry:
            await asyncio.sleep(_FULL_S)
            return {}
        wait_ms = _FETCH_WAIT_MS if len(hungry) == len(self.pumps) else int(_FULL_S * 1000)
        fetched: dict[TopicPartition, list[Any]] = {}
        try:
            fetched = await consumer.getmany(*hungry, timeout_ms=wait_ms, max_records=BATCH)
        except NoOffsetForPartitionError:
            pass  # a task that is coming up seeks for itself
        except OffsetOutOfRangeError as error:
            for tp in error.args[0] if error.args and isinstance(error.args[0], dict) else ():
                await self._restart(tp)
        except KafkaError as error:
            if (refusal := hopeless(self.settings, error)) is not None:
                raise refusal from error
            log.warning("worker.fetch", why=repr(error))
            await asyncio.sleep(_RETRY_S)
        return fetched

    async def _restart(self, tp: TopicPartition) -> None:
        """The log no longer has what the task wants next: assigning anew says so, and why."""
        pump = self.pumps.get(tp)
        if pump is not None:
            await pump.stop()
            self.pumps[tp] = Pump(pump.task, tp, pump._consumer)  # noqa: SLF001 - same class's neighbour

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:  # noqa: ARG002
        """Let batches in hand be committed; keep the tasks, since most come back."""
        self._step("rebalance.revoked")
        await self._stop_pumps()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Start a pump for each; give up the tasks that went elsewhere."""
        self._step("rebalance.assigned")
        consumer = self._consumer
        assert consumer is not None
        consumer.pause(*assigned)
        await self._discard_kept(assigned)
        for tp in assigned:
            task = self._kept.pop(tp, None) or self._make_task(self.plain(tp.topic), tp.partition)
            self.pumps[tp] = Pump(task, tp, consumer)

    def plain(self, topic: str) -> str:
        """A topic's name without namespace."""
        namespace = self.settings.namespace
        return topic.removeprefix(f"{namespace}.") if namespace else topic

    async def _stop_pumps(self) -> None:
        pumps, self.pumps = self.pumps, {}
        await asyncio.gather(*(p.stop() for p in pumps.values()))
        self._kept.update({tp: p.task for tp, p in pumps.items()})

    async def _discard_kept(self, wanted: Collection[TopicPartition]) -> None:
        gone = [tp for tp in self._kept if tp not in wanted]
        await asyncio.gather(*(self._kept.pop(tp).discard() for tp in gone))
