"""What the log in memory has beyond the contract (`test_contract`): knobs that make Kafka's worst moments."""

from __future__ import annotations

import pytest

from streams.partitions.log import Fenced, LogUnavailable, Send
from streams.partitions.memory_log import MemoryLog
from tests.streams.rigs import nothing


def out(value: bytes) -> Send:
    """A record for out/0."""
    return Send("out", b"k", value, (), 0)


async def test_markers_take_offsets() -> None:
    """Each transaction ends with a marker in every partition that it wrote to, committed or aborted."""
    log = MemoryLog({"in": 1, "out": 2})
    owner = await log.fence("in", 0, nothing)
    await owner.commit([out(b"a"), out(b"b")], 1)
    assert await log.bounds("out", 0) == (0, 3)
    assert await log.bounds("out", 1) == (0, 0)
    log.append("out", b"k", b"plain", (), 0)
    assert [r.offset for r in log.records("out", 0)] == [0, 1, 3]
    assert [r.offset for r in log.records("out", 0, 2)] == [3]


async def test_the_oldest_records_may_be_removed() -> None:
    """A partition then starts behind them, and who asks for them is refused, as Kafka refuses."""
    log = MemoryLog({"out": 1})
    for value in (b"a", b"b", b"c"):
        log.append("out", b"k", value, (), 0)
    log.firsts["out", 0] = 2
    assert await log.bounds("out", 0) == (2, 3)
    assert [r.value async for batch in log.read("out", 0, 2, 3) for r in batch] == [b"c"]
    with pytest.raises(LogUnavailable, match="offset 1 was removed"):
        await anext(log.read("out", 0, 1, 3))


async def test_a_position_may_show_late() -> None:
    """With `prompt` off a position is shown only to who has fenced since; the true one is in `positions`."""
    log = MemoryLog({"in": 1, "out": 1})
    log.prompt = False
    owner = await log.fence("in", 0, nothing)
    await owner.commit([], 5)
    assert (await log.committed("in", 0), log.positions["in", 0]) == (None, 5)
    await owner.commit([], 6)
    assert (await log.committed("in", 0), log.positions["in", 0]) == (5, 6)
    await log.fence("in", 0, nothing)
    assert await log.committed("in", 0) == 6


async def test_a_writer_is_fenced_between_any_two_records() -> None:
    """A successor may come while a transaction is being written: nothing after that is written, nothing is seen."""
    log = MemoryLog({"in": 1, "out": 1})
    for step in ("commit.begun", "commit.half_sent", "commit.sent", "commit.offsets"):

        def replace(name: str, at: str = step) -> None:
            if name == at:
                log._epochs["in", 0] += 1

        owner = await log.fence("in", 0, replace)
        with pytest.raises(Fenced):
            await owner.commit([out(b"a"), out(b"b")], 1)
        await log.fence("in", 0, nothing)
        assert log.records("out", 0) == []
        assert "in" not in {topic for topic, _ in log.positions}


async def test_records_are_stamped_with_its_clock() -> None:
    """The time of a record is the log's `now` when it was appended."""
    log = MemoryLog({"out": 1})
    log.now = 123.0
    assert log.append("out", b"k", b"v").timestamp == 123.0
