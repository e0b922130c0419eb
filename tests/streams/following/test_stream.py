"""A stream over a log in memory: whatever happens around it, its client gets each event once, in order."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.position import BadToken, encode, position_of
from schemas.errors import OffsetOutOfRange
from streams.following import stream as module
from streams.following.ring import Filters
from streams.following.stream import ServerStops, Stream, StreamEnded, TooSlow
from tests.streams.following.memory import PLACES, MemoryFeed, MemoryLog

MESSAGE = re.compile(rb"(?:data: (\S+)\n)?id: (\S+)\n\n")
RUNS = ("agent.runs", 0)


class Client:
    """Takes what a stream gives, slowly or fast, and resumes after the last id that it was given."""

    def __init__(self, feed: MemoryFeed, wanted: Filters, chance: random.Random) -> None:
        self.feed, self.wanted, self.chance = feed, wanted, chance
        self.got: list[str] = []
        self.last: str | None = None
        self.ends: list[str] = []
        self.patience = 0
        self.raw: list[bytes] = []
        self.refusal: StreamEnded | None = None
        self._task: asyncio.Task[None] | None = None

    async def write(self, piece: bytes) -> None:
        """What the stream is given to write with: it may take any time, and any turn of the others."""
        for _ in range(self.chance.randrange(1 + self.patience)):
            await asyncio.sleep(0)
        self.raw.append(piece)
        for data, id_ in MESSAGE.findall(piece):
            if data:
                self.got.append(data.decode())
            self.last = id_.decode()

    async def connect(self, since: float | None = None) -> None:
        """Open a stream, after the last id where there is one."""
        stream = Stream(self.feed, self.wanted, "key", self.check, self.write)
        await stream.begin(self.last, since)
        self._task = asyncio.create_task(self._run(stream))

    def check(self) -> None:
        """Whether the key opens still."""
        if self.refusal is not None:
            raise self.refusal

    async def _run(self, stream: Stream) -> None:
        try:
            await stream.run()
        except TooSlow as error:
            self.ends.append(type(error).__name__)

    @property
    def is_open(self) -> bool:
        """Whether the stream goes on."""
        return self._task is not None and not self._task.done()

    async def disconnect(self) -> None:
        """Leave, in the middle of whatever is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.result()


def begin(log: MemoryLog, client: Client, chance: random.Random) -> None:
    """Half of the clients begin with an id, after events whose transactions are not committed yet."""
    if chance.random() < 0.5:
        log.open_at = {place: 0 for place in PLACES if chance.random() < 0.5}
        for _ in range(chance.randrange(9)):
            log.append(chance.choice(PLACES), type=chance.choice("AB"))
        client.last = encode(position_of([log.ends]))


async def disturb(log: MemoryLog, feed: MemoryFeed, client: Client, chance: random.Random) -> None:
    """One thing that may happen."""
    match chance.randrange(20):
        case action if action < 10:
            for _ in range(chance.randrange(5)):
                log.append(chance.choice(PLACES), markers=chance.choice([0, 2]), type=chance.choice("AB"))
        case action if action < 16:
            feed.read(chance.randint(1, 6))
        case 16 | 17:
            await client.disconnect()
        case 18:
            feed.begin_anew()
        case _:
            log.open_at.clear()
    for _ in range(chance.randrange(6)):
        await asyncio.sleep(0)
    if not client.is_open and chance.random() < 0.7:
        await client.connect()


async def scenario(seed: int) -> None:
    """A client's life, and what it got in the end."""
    chance = random.Random(seed)
    log = MemoryLog()
    feed = MemoryFeed(log, chance, ring_bytes=chance.choice([2_000, 8_000, 10**6]))
    wanted = Filters("p", topic=chance.choice([None, "anomalies"]), type=chance.choice([None, "A"]))
    client = Client(feed, wanted, chance)
    client.patience = chance.choice([0, 3, 20])
    begin(log, client, chance)
    begun = dict(log.ends)
    await client.connect()
    while not client.raw:  # noqa: ASYNC110 - it would not say earlier
        await asyncio.sleep(0)
    for _ in range(chance.randrange(60)):
        await disturb(log, feed, client, chance)
    log.open_at.clear()
    new = (i for place in PLACES for i in log.items[place] if i.offset >= begun[place])
    expected = [i.message.decode()[6:-1] for i in new if wanted.admit(i)]
    async with asyncio.timeout(60):
        while len(client.got) < len(expected):
            feed.read(5)
            if not client.is_open:
                await client.connect()
            await asyncio.sleep(0.001)
    await client.disconnect()
    in_order = [got for place in PLACES for got in client.got if got.startswith(f"{place[0]}/{place[1]}/")]
    assert in_order == expected
    assert all(source.closed for source in feed.sources)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_is_missing_and_nothing_comes_twice(seed: int) -> None:
    """Appends, transactions, reads, slow clients, cut-offs and new rings in any order: each event once, in order."""
    asyncio.run(scenario(seed))


def one_client(**about: int) -> tuple[MemoryLog, MemoryFeed, Client]:
    """A client that is not open yet."""
    chance = random.Random(1)
    log = MemoryLog()
    feed = MemoryFeed(log, chance, about.get("ring_bytes", 10**6))
    return log, feed, Client(feed, Filters("p"), chance)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it would not say earlier
            await asyncio.sleep(0.001)


async def test_a_new_stream_begins_now() -> None:
    """Without an id what is in the ring already is not given; the first lines say where it stands and how to retry."""
    log, feed, client = one_client()
    log.append(RUNS)
    feed.read(9)
    await client.connect()
    log.append(RUNS)
    feed.read(9)
    await until(lambda: client.got)
    assert client.got == ["agent.runs/0/1"]
    assert client.raw[0].startswith(b"retry: 2000\nid: ")
    await client.disconnect()


async def test_an_id_given_before_the_first_event_resumes() -> None:
    """A client that was cut off before its first event misses none: an id comes with the first lines."""
    log, feed, client = one_client()
    await client.connect()
    await until(lambda: client.raw)
    await client.disconnect()
    log.append(RUNS)
    feed.read(9)
    await client.connect()
    await until(lambda: client.got)
    assert client.got == ["agent.runs/0/0"]
    await client.disconnect()


async def test_heartbeats_move_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent stream's comments carry the position, so that what was filtered out is not read again."""
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    log, feed, client = one_client()
    client.wanted = Filters("p", type="nothing is")
    await client.connect()
    log.append(RUNS)
    feed.read(9)
    await until(lambda: client.last == encode({"agent.runs": {0: 1}, "anomalies": {0: 0, 1: 0}}))
    assert client.got == []
    assert client.raw[-1].startswith(b": ")
    await client.disconnect()


async def test_a_client_that_is_too_slow_is_told_so() -> None:
    """Once the ring has left it behind, the stream ends with TooSlow instead of keeping what it did not take."""
    log, feed, client = one_client(ring_bytes=1)
    blocks, open_ = asyncio.Event(), asyncio.Event()

    async def blocked(piece: bytes) -> None:
        if b"data: " in piece:
            blocks.set()
            await open_.wait()

    stream = Stream(feed, Filters("p"), "key", client.check, blocked)
    await stream.begin(None, None)
    running = asyncio.create_task(stream.run())
    while not blocks.is_set():
        log.append(RUNS)
        feed.read(9)
        await asyncio.sleep(0.001)
    for _ in range(3):
        log.append(RUNS)
        feed.read(9)
    open_.set()
    with pytest.raises(TooSlow, match="faster"):
        await asyncio.wait_for(running, 10)


async def test_a_stopping_server_and_an_ended_key_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are looked for at least every second, whether or not there are events."""
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    _, feed, client = one_client()

    class Ended(StreamEnded):
        pass

    stream = Stream(feed, Filters("p"), "key", client.check, client.write)
    await stream.begin(None, None)
    running = asyncio.create_task(stream.run())
    await asyncio.sleep(0.05)
    client.refusal = Ended("not yours any more")
    with pytest.raises(Ended):
        await asyncio.wait_for(running, 10)
    stream = Stream(feed, Filters("p"), "key", lambda: None, client.write)
    await stream.begin(None, None)
    running = asyncio.create_task(stream.run())
    await asyncio.sleep(0.05)
    feed.stop()
    with pytest.raises(ServerStops):
        await asyncio.wait_for(running, 10)


@pytest.mark.parametrize(
    ("position", "error", "says"),
    [
        ({"agent.runs": {0: 2}}, OffsetOutOfRange, "agent.runs/0, and the log goes from 3 to 5"),
        ({"agent.runs": {0: 6}}, OffsetOutOfRange, "offset 6 of agent.runs/0"),
        ({"agent.runs": {9: 0}}, BadToken, "no partition 9"),
        ({"signals": {0: 0}}, BadToken, "says nothing of"),
        ({}, BadToken, "says nothing of"),
    ],
)
async def test_an_id_that_cannot_be_resumed_is_refused(
    position: dict[str, dict[int, int]], error: type[Exception], says: str
) -> None:
    """What the log does not have any more, or never had, is said at once, with the place."""
    log, feed, client = one_client(ring_bytes=1)
    for _ in range(5):
        log.append(RUNS)
        feed.read(1)
    log.forget(RUNS, 3)
    client.last = encode(position)
    with pytest.raises(error, match=says):
        await client.connect()


async def test_what_is_forgotten_while_a_stream_catches_up_ends_it() -> None:
    """Events that the log drops before the stream has read them are never skipped in silence."""
    log, feed, client = one_client(ring_bytes=1)
    for _ in range(50):
        log.append(RUNS)
        feed.read(1)
    stream = Stream(feed, Filters("p"), "key", client.check, client.write)
    await stream.begin(encode({"agent.runs": {0: 0}}), None)
    running = asyncio.create_task(stream.run())
    await asyncio.sleep(0)
    log.forget(RUNS, 49)
    with pytest.raises(OffsetOutOfRange):
        await asyncio.wait_for(running, 10)


async def test_an_id_may_stand_behind_an_open_transaction() -> None:
    """What the id says the client has is not given again by a reader that had to begin before it."""
    log, feed, client = one_client(ring_bytes=1)
    for _ in range(40):
        log.append(("anomalies", 0))
        feed.read(1)
    log.open_at[RUNS] = 0
    for _ in range(6):
        log.append(RUNS)
    client.last = encode({"anomalies": {0: 0, 1: 0}, "agent.runs": {0: 6}})
    await client.connect()
    await asyncio.sleep(0.002)
    del log.open_at[RUNS]
    log.append(RUNS)
    async with asyncio.timeout(20):
        while len(client.got) < 41:
            feed.read(1)
            await asyncio.sleep(0.001)
    await client.disconnect()
    assert client.got.count("agent.runs/0/6") == 1
    assert len(client.got) == 41
