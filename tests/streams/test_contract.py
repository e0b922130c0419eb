"""What the runner relies on, on the log in memory and on a real broker alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from schemas import events as e
from schemas import topics
from schemas.envelope import Envelope, to_headers
from streams.folding.task import PartitionTask
from streams.partitions.log import Fenced, LogUnavailable, Send
from streams.producing.partitioner import partition_for
from streams.settings import Settings
from streams.simulation import Crash
from tests.streams.folds import CURSED, UNLUCKY, Chain, Echo, Silence
from tests.streams.harness import CODEC, SIGNALS, TICKS, signal, states
from tests.streams.rigs import OUT, OUT_PARTITIONS, MemoryRig, Rig, everything, kafka_rig, nothing


@pytest.fixture(params=["memory", "kafka", "kafka-first-protocol"])
def where(request: pytest.FixtureRequest) -> tuple[Settings, bool] | None:
    """The running broker and whether transactions go by its second protocol, or None for memory."""
    kafka = request.param != "memory"
    return (request.getfixturevalue("broker"), request.param == "kafka") if kafka else None


@pytest.fixture
async def rig(where: tuple[Settings, bool] | None) -> AsyncIterator[Rig]:
    """Each log in turn."""
    if where is None:
        yield MemoryRig()
        return
    async with kafka_rig(*where) as kafka:
        yield kafka


def crash_at(step: str) -> Any:
    """Raises Crash when the step is reached."""

    def crash(name: str) -> None:
        if name == step:
            raise Crash

    return crash


def sends(*values: bytes, topic: str = OUT) -> list[Send]:
    """Records for partition 0."""
    return [Send(topic, b"k", value, [("h", b"v")], 0) for value in values]


async def settled(rig: Rig) -> tuple[list[bytes | None], int | None]:
    """Values of OUT/0 and the position, to one who has taken over: until then Kafka may show the former ones."""
    await (await rig.log.fence(SIGNALS, 0, nothing)).close()
    return await values(rig), await rig.log.committed(SIGNALS, 0)


async def values(rig: Rig) -> list[bytes | None]:
    """Visible values of OUT/0."""
    return [r.value for r in await everything(rig.log, OUT)]


async def test_at_first_there_is_nothing(rig: Rig) -> None:
    """An empty partition starts and ends at 0, gives no record, and the group has no position in it."""
    assert await rig.log.bounds(OUT, 0) == (0, 0)
    assert await everything(rig.log, OUT) == []
    assert await rig.log.committed(SIGNALS, 0) is None


async def test_a_commit_is_all_of_it(rig: Rig) -> None:
    """Records of several partitions, in order, with key and headers, and the position, appear together."""
    owner = await rig.log.fence(SIGNALS, 0, nothing)
    by_key = [Send(OUT, f"k{i}".encode(), f"v{i}".encode(), [("h", b"x")]) for i in range(50)]
    await owner.commit(by_key, 7)
    assert (await settled(rig))[1] == 7
    for partition in range(OUT_PARTITIONS):
        expected = [s for s in by_key if partition_for(s.key, OUT_PARTITIONS) == partition]
        found = await everything(rig.log, OUT, partition)
        assert [(r.key, r.value, list(r.headers)) for r in found] == [
            (s.key, s.value, [("h", b"x")]) for s in expected
        ]
        assert all(r.timestamp > 1.6e9 for r in found)
    await owner.close()


async def test_a_position_alone(rig: Rig) -> None:
    """A commit without records moves the position."""
    owner = await rig.log.fence(SIGNALS, 0, nothing)
    await owner.commit([], 3)
    await owner.commit([], 4)
    assert await settled(rig) == ([], 4)
    await owner.close()


@pytest.mark.parametrize("step", ["commit.begun", "commit.sent", "commit.offsets"])
async def test_an_open_transaction_is_aborted_by_the_successor(rig: Rig, step: str) -> None:
    """What a dead owner left open is never seen, nor its position; its successor's commits are."""
    dead = await rig.log.fence(SIGNALS, 0, crash_at(step))
    with pytest.raises(Crash):
        await dead.commit(sends(b"a", b"b", b"c"), 9)
    assert await values(rig) == []
    await dead.close()
    successor = await rig.log.fence(SIGNALS, 0, nothing)
    assert await rig.log.committed(SIGNALS, 0) is None
    await successor.commit(sends(b"d"), 1)
    assert await settled(rig) == ([b"d"], 1)
    await successor.close()


async def test_an_open_transaction_holds_back_what_follows(rig: Rig) -> None:
    """While a transaction is open, the end lies before it, even for plain records behind it."""
    await rig.append(OUT, b"k", b"before")
    one = await rig.log.fence(SIGNALS, 0, crash_at("commit.written"))
    if isinstance(rig, MemoryRig):
        one = await rig.log.fence(SIGNALS, 0, crash_at("commit.sent"))
    with pytest.raises(Crash):
        await one.commit(sends(b"open"), 9)
    await rig.append(OUT, b"k", b"behind")
    assert await rig.log.bounds(OUT, 0) == (0, 1)
    assert await values(rig) == [b"before"]
    await one.close()
    two = await rig.log.fence(SIGNALS, 0, nothing)
    assert await values(rig) == [b"before", b"behind"]
    await two.close()


async def test_who_was_replaced_is_fenced(rig: Rig) -> None:
    """The former owner's commit fails with Fenced, whatever it wants to write, and leaves nothing."""
    for wanted in (sends(b"zombie"), []):
        former = await rig.log.fence(SIGNALS, 0, nothing)
        owner = await rig.log.fence(SIGNALS, 0, nothing)
        with pytest.raises(Fenced):
            await former.commit(wanted, 99)
        await owner.commit(sends(b"owner"), 1)
        await former.close()
        await owner.close()
    assert await settled(rig) == ([b"owner", b"owner"], 1)


@pytest.mark.parametrize("step", ["commit.begun", "commit.sent", "commit.offsets"])
async def test_who_was_replaced_amid_a_transaction(rig: Rig, step: str) -> None:
    """An owner that stood still in its transaction, was replaced and goes on, cannot end it."""
    replaced = False

    def stand_still(name: str) -> None:
        nonlocal replaced
        if name == step and not replaced:
            replaced = True
            thread = threading.Thread(target=asyncio.run, args=(rig.replace(),))
            thread.start()
            thread.join()

    paused = await rig.log.fence(SIGNALS, 0, stand_still)
    with pytest.raises((Fenced, LogUnavailable)):
        await paused.commit(sends(b"paused"), 9)
    assert replaced
    owner = await rig.log.fence(SIGNALS, 0, nothing)
    await owner.commit(sends(b"owner"), 1)
    assert await settled(rig) == ([b"owner"], 1)
    await paused.close()
    await owner.close()


async def test_partitions_have_owners_of_their_own(rig: Rig) -> None:
    """Taking over one partition fences nobody else."""
    one = await rig.log.fence(SIGNALS, 0, nothing)
    other = await rig.log.fence(TICKS, 0, nothing)
    await one.commit(sends(b"a"), 1)
    await other.commit(sends(b"b"), 1)
    await (await rig.log.fence(TICKS, 0, nothing)).close()
    assert await settled(rig) == ([b"a", b"b"], 1)
    await one.close()
    await other.close()


async def test_reading_ends_by_position(rig: Rig) -> None:
    """Markers take offsets: reading up to an end that no record has comes to an end, from any start."""
    owner = await rig.log.fence(SIGNALS, 0, nothing)
    for value in (b"a", b"b", b"c"):
        await owner.commit(sends(value), 1)
    aborted = await rig.log.fence(SIGNALS, 0, crash_at("commit.offsets"))
    with pytest.raises(Crash):
        await aborted.commit(sends(b"x", b"y"), 9)
    await aborted.close()
    await owner.close()
    await settled(rig)
    first, end = await rig.log.bounds(OUT, 0)
    assert (first, end) == (0, 9), "a marker after each of three, two aborted and their marker"
    for start in range(end + 1):
        found = [r.offset async for batch in rig.log.read(OUT, 0, start, end) for r in batch]
        assert found == [offset for offset in (0, 2, 4) if offset >= start]
        if start in (0, 5):  # enough of these on a real broker
            assert [r async for batch in rig.log.read(OUT, 0, start, start) for r in batch] == []
    assert [r.offset async for batch in rig.log.read(OUT, 0, 0, 4) for r in batch] == [0, 2]


async def test_large_batches(rig: Rig) -> None:
    """A transaction of many records and megabytes, single ones as large as the limit, arrives whole and in order."""
    owner = await rig.log.fence(SIGNALS, 0, nothing)
    large = [b"%d" % i + b"x" * (1024 * 1024 - 100) for i in range(3)]
    small = [b"%d" % i for i in range(3000)]
    await owner.commit(sends(*large, *small, large[0]), 1)
    assert (await settled(rig))[0] == [*large, *small, large[0]]
    await owner.close()


async def test_tombstones_and_empty_values(rig: Rig) -> None:
    """A value of None and an empty one are two things, and both come back."""
    owner = await rig.log.fence(SIGNALS, 0, nothing)
    await owner.commit([Send(OUT, b"k", None, (), 0), Send(OUT, b"k", b"", (), 0)], 1)
    assert (await settled(rig))[0] == [None, b""]
    await owner.close()


TASK_STEPS = ["assign.fenced", "batch.folded", "commit.sent", "commit.done"]


async def lived(rig: Rig, step: str | None) -> tuple[Any, Any, Any, Any]:
    """A task over ten records, poison and garbage among them, and a silence; it dies at `step` twice."""
    clock, deaths = 1_700_000_000.0, 0

    def crash(name: str) -> None:
        nonlocal deaths
        if name == step and deaths < 2:
            deaths += 1
            raise Crash

    def task() -> PartitionTask:
        return PartitionTask(
            topics.SIGNALS,
            0,
            lambda: [Chain(), Silence(), Echo()],
            rig.log,
            codec=CODEC,
            secret=b"s",
            step=crash,
            now=lambda: clock,
            snapshot_interval_s=0.0,
        )

    for i, value in enumerate([20, 30, UNLUCKY, 40, CURSED, 50, 60, 60, 70]):
        envelope = Envelope(
            id=f"e{min(i, 6)}" if i < 8 else "last", source="t", type="Signal", time=clock + i
        )
        component = f"c{i % 2}" if value != CURSED else "cursed"
        await rig.append(
            SIGNALS,
            f"default/{component}".encode(),
            CODEC.encode(signal(value, component)),
            to_headers(envelope),
        )
    await rig.append(SIGNALS, b"\xff", b"garbage")
    _, end = await rig.log.bounds(SIGNALS, 0)
    worker, idles = task(), 0
    while idles < 4:
        try:
            if worker.engine is None:
                await worker.assign()
            records = [r async for b in rig.log.read(SIGNALS, 0, worker.position, end) for r in b][:4]
            if records:
                await worker.handle(records)
                continue
            clock = 1_700_000_100.0
            await worker.idle()
            idles += 1
        except Crash:
            worker = task()
    found = [(r.key, r.value, list(r.headers)) for r in await everything(rig.log, OUT)]
    found += [(r.key, r.value, list(r.headers)) for p in (1, 2) for r in await everything(rig.log, OUT, p)]
    letters = [CODEC.decode(r.value) for r in await everything(rig.log, topics.DEAD_LETTERS.name)]
    ticks = [CODEC.decode(r.value) for r in await everything(rig.log, TICKS)]
    await worker.discard()
    fresh = task()
    await fresh.assign()
    end_states = states(fresh.engine)
    await fresh.discard()
    assert step is None or deaths == 2
    return found, sorted(repr(x) for x in letters), ticks, end_states


@pytest.mark.parametrize("step", TASK_STEPS)
async def test_a_task_that_dies_at(rig: Rig, step: str) -> None:
    """A task that dies at a step, twice, leaves on either log what an undisturbed one leaves in memory."""
    assert await lived(rig, step) == await lived(MemoryRig(), None)


async def test_a_task_assigned_anew_after_each_commit(rig: Rig) -> None:
    """A rebalance right after a commit, before Kafka shows its position, makes nothing twice."""
    for i in range(6):
        envelope = Envelope(id=f"e{i}", source="t", type="Signal", time=1.7e9)
        await rig.append(SIGNALS, b"default/c", CODEC.encode(signal(20 + i)), to_headers(envelope))
    _, end = await rig.log.bounds(SIGNALS, 0)
    task = PartitionTask(topics.SIGNALS, 0, lambda: [Chain(), Echo()], rig.log, codec=CODEC, secret=b"s")
    await task.assign()
    while records := [r async for b in rig.log.read(SIGNALS, 0, task.position, end) for r in b][:1]:
        await task.handle(records)
        await task.assign()
    await task.discard()
    await settled(rig)
    decoded = [
        CODEC.decode(r.value) for p in range(OUT_PARTITIONS) for r in await everything(rig.log, OUT, p)
    ]
    assert [d.value for d in decoded if isinstance(d, e.AnomalyDetected) and d.detector == "echo"] == [
        20 + i for i in range(6)
    ]
