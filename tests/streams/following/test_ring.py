"""The ring: where a position is in it, what follows, and what it forgets."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from projections.position import Cursor, decode
from projections.view import Place
from streams.following.ring import (
    PIECE_BYTES,
    Filters,
    Item,
    Ring,
    furthest,
    messages_after,
    pieces,
)
from tests.streams.following.memory import PLACES, MemoryLog, item

SEEDS = st.integers(0, 2**32)
ANY = Filters("p")


def filled(seed: int, limit: int) -> tuple[Ring, list[Item]]:
    """A ring that has read a log in batches of any size, and all that it read, in its order."""
    chance = random.Random(seed)
    log = MemoryLog()
    ring = Ring(dict(log.ends), limit)
    read: list[Item] = []
    for _ in range(chance.randrange(12)):
        for _ in range(chance.randrange(6)):
            log.append(chance.choice(PLACES), markers=chance.choice([0, 0, 1]), type=chance.choice("ABC"))
        places = list(PLACES)
        chance.shuffle(places)
        batch = log.read(dict(ring.position), chance.randint(1, 8), places)
        if batch.end:
            ring.add(batch.records, batch.end)  # type: ignore[arg-type]
            read += batch.records  # type: ignore[arg-type]
    return ring, read


def rest(ring: Ring, position: dict[Place, int], wanted: Filters = ANY) -> Iterator[bytes]:
    """What a stream at a position is given of the ring."""
    cursor = Cursor(position)
    for number in range(ring.after(position), ring.next):
        batch = ring.get(number)
        assert batch is not None
        yield from messages_after(cursor, batch.items, wanted)
        position = furthest(position, batch.end)
        cursor = Cursor(position)


def without_id(message: bytes) -> bytes:
    """A message's other lines."""
    return message[: message.index(b"id: ")]


def id_of(message: bytes) -> dict[Place, int]:
    """The position in a message's id."""
    token = message[message.index(b"id: ") + 4 :].decode().strip()
    return {(topic, p): o for topic, some in decode(token).items() for p, o in some.items()}


@settings(deadline=None)
@given(SEEDS)
def test_every_id_resumes_where_it_stands(seed: int) -> None:
    """After the id of any message, in the middle of a batch too, comes exactly what came after it."""
    ring, read = filled(seed, 10**9)
    begin = dict.fromkeys(PLACES, 0)
    whole = list(rest(ring, begin))
    assert [without_id(m) for m in whole] == [i.message for i in read]
    for number, message in enumerate(whole):
        assert list(rest(ring, id_of(message))) == whole[number + 1 :]


@settings(deadline=None)
@given(SEEDS, st.sampled_from([None, "anomalies", "agent.runs"]), st.sampled_from([None, "A"]))
def test_a_batch_gives_those_in_step_what_it_gives_the_others(
    seed: int, topic: str | None, type_: str | None
) -> None:
    """The ids that all streams of a topic share are those that a stream makes by itself."""
    ring, _ = filled(seed, 10**9)
    wanted = ANY._replace(topic=topic, type=type_)
    position = {place: 0 for place in PLACES if topic in (None, place[0])}
    shared = [m for n in range(ring.next) if (b := ring.get(n)) is not None for m in b.messages(wanted)]
    assert shared == list(rest(ring, position, wanted))


@settings(deadline=None)
@given(SEEDS, st.integers(0, 20_000), SEEDS)
def test_what_is_covered_is_there(seed: int, limit: int, chosen: int) -> None:
    """A position is covered if and only if no event after it has left the ring; nothing is given twice."""
    ring, read = filled(seed, limit)
    chance = random.Random(chosen)
    kept = [i for n in range(ring.next) if (b := ring.get(n)) is not None for i in b.items]
    dropped = read[: len(read) - len(kept)]
    position = {place: chance.randint(0, ring.position[place] + 2) for place in PLACES}
    if ring.covers(position):
        assert not [i for i in dropped if i.offset >= position[i.place]]
        after = [i.message for i in kept if i.offset >= position[i.place]]
        assert [without_id(m) for m in rest(ring, position)] == after
    else:
        assert any(offset < ring.start[place] for place, offset in position.items())


@settings(deadline=None)
@given(SEEDS, st.integers(0, 20_000))
def test_memory_is_bounded(seed: int, limit: int) -> None:
    """The ring holds no more than its limit and one batch, always the newest, and batches without gaps."""
    ring, _ = filled(seed, limit)
    batches = [b for n in range(ring.next) if (b := ring.get(n)) is not None]
    assert not ring.next or batches[-1].end == ring.position
    assert sum(b.size for b in batches[1:]) <= limit or len(batches) == 1
    assert all(a.end is b.start for a, b in pairwise(batches))
    assert ring.get(ring.next) is None


def test_filters_admit_what_they_say() -> None:
    """Each filter leaves out what differs in it, and another project's events always."""
    one = item(("anomalies", 0), 1, project="p", type="T", key="k", correlation_id="c", producer_key="x")
    for wanted in (
        ANY,
        ANY._replace(topic="anomalies"),
        ANY._replace(type="T", key="k"),
        Filters("p", "anomalies", "T", "k", "c", "x"),
    ):
        assert wanted.admit(one)
    for field in ("project", "topic", "type", "key", "correlation_id", "producer_key"):
        assert not ANY._replace(**{field: "other"}).admit(one)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3 * PIECE_BYTES), max_size=20))
def test_pieces_are_of_a_bounded_size(sizes: list[int]) -> None:
    """Joined, pieces are the messages; each ends with the message that makes it large enough."""
    messages = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    found = list(pieces(messages))
    assert b"".join(found) == b"".join(messages)
    assert all(len(piece) < PIECE_BYTES + max(sizes) + 1 for piece in found)
    assert all(len(piece) >= PIECE_BYTES for piece in found[:-1])
