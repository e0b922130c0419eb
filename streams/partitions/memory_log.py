"""A log in memory that behaves as Kafka does where it matters to exactly-once.

Transactions of a fenced writer fail; an open transaction hides what stands after it (last stable
offset) until its successor aborts it; commit markers take offsets; compaction is not simulated,
since readers take the last value of a key.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field

from schemas.codec import Record
from schemas.envelope import Headers
from streams.partitions.log import Fenced, LogUnavailable, Send, Step
from streams.producing.partitioner import partition_for


@dataclass
class _Transaction:
    """Open until it is committed or aborted."""

    writer: tuple[str, int]
    epoch: int
    state: str = "open"
    touched: dict[tuple[str, int], int] = field(default_factory=dict)
    """First offset that it wrote, by partition."""
    next_offset: int | None = None


@dataclass
class _Entry:
    """A record, or (record None) a marker that ended a transaction."""

    record: Record | None
    transaction: _Transaction | None


class MemoryLog:
    """Topics, partitions, positions of one group, and writers' epochs. `now` stamps records."""

    def __init__(self, partitions: dict[str, int]) -> None:
        self.partitions = partitions
        self.now = 1_700_000_000.0
        self.prompt = True
        """Whether a position can be read as soon as it was committed. Kafka takes a moment: only who has
        fenced the partition since knows what he reads."""
        self.positions: dict[tuple[str, int], int] = {}
        self.firsts: dict[tuple[str, int], int] = {}
        """Where partitions start, of which the oldest records were removed."""
        self._entries: dict[tuple[str, int], list[_Entry]] = {}
        self._epochs: dict[tuple[str, int], int] = {}
        self._open: dict[tuple[str, int], _Transaction] = {}
        self._before: dict[tuple[str, int], int | None] = {}

    def append(
        self, topic: str, key: bytes, value: bytes | None, headers: Headers = (), partition: int | None = None
    ) -> Record:
        """Write outside any transaction, as a plain producer does."""
        return self._write(Send(topic, key, value, headers, partition), None)

    def records(self, topic: str, partition: int, start: int = 0) -> list[Record]:
        """All that was ever committed and a read_committed reader sees now, from offset `start`."""
        return list(self.visible(topic, partition, start))

    def visible(self, topic: str, partition: int, start: int = 0) -> Iterator[Record]:
        """The same, one by one."""
        entries = self._log(topic, partition)
        for offset in range(start, self._stable_end(topic, partition)):
            entry = entries[offset]
            if entry.record is not None and _visible(entry):
                yield entry.record

    async def fence(self, topic: str, partition: int, step: Step) -> MemoryTransactions:
        """See `streams.partitions.log.Log`."""
        writer = (topic, partition)
        self._epochs[writer] = self._epochs.get(writer, 0) + 1
        self._before.pop(writer, None)
        abandoned = self._open.pop(writer, None)
        if abandoned is not None:
            self.end(abandoned, "aborted")
        return MemoryTransactions(self, writer, self._epochs[writer], step)

    async def committed(self, topic: str, partition: int) -> int | None:
        """See `streams.partitions.log.Log`."""
        true = self.positions.get((topic, partition))
        return true if self.prompt else self._before.get((topic, partition), true)

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See `streams.partitions.log.Log`."""
        return self.firsts.get((topic, partition), 0), self._stable_end(topic, partition)

    async def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncGenerator[Sequence[Record], None]:
        """See `streams.partitions.log.Log`."""
        if start < end and start < self.firsts.get((topic, partition), 0):
            raise LogUnavailable(f"reading {topic}/{partition}: offset {start} was removed")
        found = [r for r in self.records(topic, partition, start) if r.offset < end]
        for i in range(0, len(found), 7):  # small batches, so that their borders are met
            yield found[i : i + 7]

    async def post(self, send: Send) -> None:
        """See `streams.partitions.log.Log`."""
        self._write(send, None)

    def begin(self, writer: tuple[str, int], epoch: int) -> _Transaction:
        """Open a transaction; raises Fenced for one who has a successor."""
        self.check(writer, epoch)
        transaction = self._open[writer] = _Transaction(writer, epoch)
        return transaction

    def check(self, writer: tuple[str, int], epoch: int) -> None:
        """Raises Fenced for one who has a successor."""
        if self._epochs[writer] != epoch:
            raise Fenced(
                f"{writer[0]}/{writer[1]}: another worker has taken over", hint="give the partition up"
            )

    def write(self, send: Send, transaction: _Transaction) -> None:
        """Append as part of a transaction: not visible yet."""
        record = self._write(send, transaction)
        transaction.touched.setdefault((record.topic, record.partition), record.offset)

    def end(self, transaction: _Transaction, state: str) -> None:
        """Commit or abort: a marker in every partition that was written to."""
        transaction.state = state
        for tp in sorted(transaction.touched):
            self._entries[tp].append(_Entry(None, transaction))
        if state == "committed" and transaction.next_offset is not None:
            self._before[transaction.writer] = self.positions.get(transaction.writer)
            self.positions[transaction.writer] = transaction.next_offset
        self._open.pop(transaction.writer, None)

    def _log(self, topic: str, partition: int) -> list[_Entry]:
        return self._entries.setdefault((topic, partition), [])

    def _stable_end(self, topic: str, partition: int) -> int:
        tp = (topic, partition)
        open_from = [t.touched[tp] for t in self._open.values() if tp in t.touched]
        return min(open_from, default=len(self._log(topic, partition)))

    def _write(self, send: Send, transaction: _Transaction | None) -> Record:
        partition = send.partition
        if partition is None:
            partition = partition_for(send.key, self.partitions[send.topic])
        entries = self._log(send.topic, partition)
        record = Record(send.topic, partition, len(entries), self.now, send.key, send.value, send.headers)
        entries.append(_Entry(record, transaction))
        return record


class MemoryTransactions:
    """See `streams.partitions.log.Transactions`."""

    def __init__(self, log: MemoryLog, writer: tuple[str, int], epoch: int, step: Step) -> None:
        self._log = log
        self._writer = writer
        self._epoch = epoch
        self._step = step

    async def commit(self, sends: Sequence[Send], next_offset: int) -> None:
        """See `streams.partitions.log.Transactions`."""
        transaction = self._log.begin(self._writer, self._epoch)
        self._step("commit.begun")
        for number, send in enumerate(sends):
            self._log.check(self._writer, self._epoch)
            self._log.write(send, transaction)
            if number == len(sends) // 2:
                self._step("commit.half_sent")
        self._step("commit.sent")
        self._log.check(self._writer, self._epoch)
        transaction.next_offset = next_offset
        self._step("commit.offsets")
        self._log.check(self._writer, self._epoch)
        self._log.end(transaction, "committed")
        self._step("commit.done")

    async def close(self) -> None:
        """See `streams.partitions.log.Transactions`."""


def _visible(entry: _Entry) -> bool:
    return entry.transaction is None or entry.transaction.state == "committed"
