"""Record batches as aiokafka's own reader takes them, and how lanes make them of parts."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import events as e
from schemas.codec import Codec
from schemas.envelope import PRODUCER_KEY, Envelope, to_headers
from schemas.errors import RecordTooLarge
from streams.producing.batch import Batch, body, packed
from streams.producing.budget import Budget
from streams.producing.connection import Connection, Refused
from streams.producing.delivery import Call, Lane, Part
from streams.producing.outgoing import Outgoing, Prepared, prepare
from streams.settings import Settings

HEADERS = st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.binary(max_size=200)))
RECORDS = st.lists(st.tuples(st.binary(max_size=50), st.binary(max_size=500), HEADERS), min_size=1)


def read(batch: Batch) -> list[Any]:
    """The records of a batch that is ready to be sent."""
    found = DefaultRecordBatch(bytes(batch._build()))
    assert found.validate_crc()
    return list(found)


@settings(deadline=None)
@given(records=RECORDS, shared=HEADERS)
def test_any_records_are_read_back(records: list[Any], shared: list[tuple[str, bytes]]) -> None:
    """Keys, values and headers, the shared before their own, are those given; offsets count from 0; it is checked."""
    batch = Batch([body(k, v, own, packed(shared), len(shared)) for k, v, own in records])
    batch.compress()
    found = read(batch)
    assert [(r.key, r.value, list(r.headers)) for r in found] == [
        (k, v, [*shared, *own]) for k, v, own in records
    ]
    assert [r.offset for r in found] == list(range(len(records)))
    assert batch.record_count() == len(records)
    assert len({r.timestamp for r in found}) == 1


@pytest.mark.parametrize(("value", "codec"), [(b"again " * 1000, 4), (os.urandom(1000), 0)])
def test_what_compression_does_not_make_smaller_is_sent_as_it_is(value: bytes, codec: int) -> None:
    """The batch says which: 4 is zstd."""
    batch = Batch([body(b"k", value, [])])
    batch.compress()
    assert DefaultRecordBatch(bytes(batch._build())).compression_type == codec
    assert [r.value for r in read(batch)] == [value]


def test_who_sent_it_stands_in_the_batch() -> None:
    """Producer, epoch and sequence, which come last and which idempotence rests on, are under the checksum."""
    batch = Batch([body(b"k", b"v", [])] * 3)
    batch.compress()
    batch._set_producer_state(2**40, 7, 2**31 - 4)
    found = DefaultRecordBatch(bytes(batch._build()))
    assert (found.producer_id, found.producer_epoch, found.base_sequence) == (2**40, 7, 2**31 - 4)
    assert (found.last_offset_delta, found.validate_crc()) == (2, True)


@pytest.mark.parametrize("producer_key", [None, "k1"])
def test_a_prepared_event_has_the_headers_of_its_envelope(producer_key: str | None) -> None:
    """What the producer writes byte by byte is what `to_headers` says, and the codec's value."""
    event = e.ToolCallCompleted(agent_id="a", tool_name="t", call_id="c", result="ü" * 9000)
    envelope = Envelope(
        id="id", source="s", type="ToolCallCompleted", time=1.25, project="p", subject="t", clock="replay",
        correlation_id="run", causation_id="cause", traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
    )  # fmt: skip
    prepared = prepare(Outgoing(event, envelope, "t", producer_key), Codec())
    batch = Batch([prepared.body])
    batch.compress()
    (record,) = read(batch)
    of_door = [] if producer_key is None else [(PRODUCER_KEY, producer_key.encode())]
    assert list(record.headers) == [*to_headers(envelope), *of_door]
    assert (record.key, record.value) == (b"p/t", Codec().encode(event))
    assert prepared.cost > len(prepared.body)


async def test_a_part_is_cut_where_the_room_ends() -> None:
    """What fits goes, the rest stays with its places; both are acknowledged where they then stand."""
    budget = Budget(10_000)
    call = Call(5, 1.0, budget)
    part = Part(call)
    for place in (0, 2, 3, 4):
        part.records.append(Prepared("", "t", b"k", b"x" * 10))
        part.places.append(place)
    assert budget.try_take(sum(r.cost for r in part.records))
    assert part.fitting(25) == (2, 5)
    assert part.fitting(9) == (0, 9)
    assert part.fitting(1000) == (4, 960)
    front = part.cut(2)
    front.acknowledged("t", 1, 70)
    front.give_back()
    assert call.positions == [("t", 1, 70), None, ("t", 1, 71), None, None]
    assert (call.left, budget.used) == (3, 2 * part.records[0].cost)
    part.acknowledged("t", 1, 90)
    part.give_back()
    assert call.positions[3:] == [("t", 1, 90), ("t", 1, 91)]
    assert (call.left, budget.used) == (1, 0)
    assert part.wanted
    call.give_up()
    await asyncio.sleep(0)
    assert not part.wanted


async def test_batches_are_full_and_no_fuller() -> None:
    """Records of many calls go in order, as many as fit; one that is larger than a batch goes alone."""
    limit = Connection(Settings()).batch_bytes
    lane = Lane(Connection(Settings()), "t", "t", 0)
    sizes = [limit // 2, limit // 2, 1, limit, limit + 1, 1, 2, limit - 3, 1]
    call, other = (Call(len(sizes), 1.0, Budget(1)) for _ in range(2))
    for place, size in enumerate(sizes):
        part = Part(call)
        part.records.append(Prepared(str(place), "t", b"", b"x" * size))
        part.places.append(place)
        lane._queue.append(part)
    gone = Part(other)
    gone.records.append(Prepared("gone", "t", b"", b""))
    lane._queue.insert(2, gone)
    other.give_up()
    batches = []
    while batch := lane._take():
        batches.append([len(r.body) for part in batch for r in part.records])
    whole = limit // 2
    assert batches == [[whole, whole], [1], [limit], [limit + 1], [1, 2, limit - 3], [1]]


async def test_a_refused_batch_is_halved_to_the_record() -> None:
    """A lane that was told to send less takes so many records, in the middle of a part too."""
    lane = Lane(Connection(Settings()), "t", "t", 0)
    call = Call(10, 1.0, Budget(1))
    for start in (0, 7):
        part = Part(call)
        part.places.extend(range(start, start + 7)[: 10 - start])
        part.records.extend(Prepared(str(place), "t", b"", b"x") for place in part.places)
        lane._queue.append(part)
    taken = lane._take()
    refused = Refused(RecordTooLarge("too large"), too_large=True)
    sizes = []
    while lane._halve(refused, taken):
        lane._queue.extendleft(reversed(taken))
        taken = lane._take()
        sizes.append(sum(len(part.records) for part in taken))
    assert sizes == [5, 2, 1]
    rest = [*taken, *lane._queue]
    assert [place for part in rest for place in part.places] == list(range(10))
    assert [r.id for part in rest for r in part.records] == [str(place) for place in range(10)]
