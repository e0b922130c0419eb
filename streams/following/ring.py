"""What was read last, for all streams: each has only a place in it, and no queue of its own.

A ring of batches in the order in which they were read. So memory is bounded for all streams
together, and none can hold up another; one that falls behind the oldest batch resumes from the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from projections.position import Cursor
from projections.view import Offsets, Place

RING_BYTES = 32 * 1024 * 1024
PIECE_BYTES = 128 * 1024
"""What is given to a connection at a time; one event may be larger."""
_ITEM_BYTES, _PLACE_BYTES = 700, 120
"""What an item takes beside its message and its id, and a batch for each place; roughly."""


class Item(NamedTuple):
    """One event; `message` is all of its message but the id."""

    place: Place
    offset: int
    project: str
    type: str
    key: str
    correlation_id: str | None
    producer_key: str | None
    message: bytes


class Filters(NamedTuple):
    """Which events are wanted; None means any."""

    project: str
    topic: str | None = None
    type: str | None = None
    key: str | None = None
    correlation_id: str | None = None
    producer_key: str | None = None

    def admit(self, item: Item) -> bool:
        """Whether an event is wanted."""
        return (
            self.project == item.project
            and (self.topic is None or self.topic == item.place[0])
            and (self.type is None or self.type == item.type)
            and (self.key is None or self.key == item.key)
            and (self.correlation_id is None or self.correlation_id == item.correlation_id)
            and (self.producer_key is None or self.producer_key == item.producer_key)
        )


class Batch:
    """Events that were read together; `start` and `end` are the next offsets of every place."""

    def __init__(self, items: list[Item], start: Offsets, end: Offsets) -> None:
        self.items = items
        self.start = start
        self.end = end
        self.size = len(end) * _PLACE_BYTES + len(items) * (_ITEM_BYTES + len(Cursor(end).token()))
        self.size += sum(len(item.message) for item in items)
        self._ids: dict[str | None, list[bytes]] = {}

    def messages(self, wanted: Filters) -> Iterator[bytes]:
        """The wanted events, for a stream that stands at `start`."""
        ids = zip(self.items, self._ids_for(wanted.topic), strict=True)
        return (item.message + id_ for item, id_ in ids if wanted.admit(item))

    def _ids_for(self, topic: str | None) -> list[bytes]:
        """The ids after each event; made once for all streams that follow the same topic, or all."""
        ids = self._ids.get(topic)
        if ids is None:
            cursor = Cursor({place: o for place, o in self.start.items() if topic in (None, place[0])})
            moves = (cursor.move(item.place, item.offset + 1) for item in self.items)
            ids = self._ids[topic] = [id_line(cursor) if moved else b"" for moved in moves]
        return ids


class Ring:
    """The batches read last, without gaps; at least the newest, whatever its size."""

    def __init__(self, position: Offsets, limit: int = RING_BYTES) -> None:
        self.position = position
        """Next offsets after the newest batch."""
        self.next = 0
        """The number that the next batch will have."""
        self._limit = limit
        self._batches: deque[Batch] = deque()
        self._size = 0

    @property
    def start(self) -> Offsets:
        """Next offsets before the oldest batch."""
        return self._batches[0].start if self._batches else self.position

    def add(self, items: list[Item], end: Offsets) -> None:
        """Append a batch that ends at `end`; places that did not move may be left out."""
        batch = Batch(items, self.position, {**self.position, **end})
        self._batches.append(batch)
        self.position = batch.end
        self.next += 1
        self._size += batch.size
        while self._size > self._limit and len(self._batches) > 1:
            self._size -= self._batches.popleft().size

    def get(self, number: int) -> Batch | None:
        """A batch by its number; None where it is not there any more, or not yet."""
        index = number - self.next + len(self._batches)
        return self._batches[index] if 0 <= index < len(self._batches) else None

    def covers(self, position: Offsets) -> bool:
        """Whether everything after a position is here, or is still to come."""
        return all(offset >= self.start[place] for place, offset in position.items())

    def after(self, position: Offsets) -> int:
        """The number of the first batch with something after the position, which the ring covers."""
        low, high = self.next - len(self._batches), self.next
        while low < high:
            middle = (low + high) // 2
            batch = self.get(middle)
            assert batch is not None
            if all(offset >= batch.end[place] for place, offset in position.items()):
                low = middle + 1
            else:
                high = middle
        return low


def messages_after(cursor: Cursor, items: Iterable[Item], wanted: Filters) -> Iterator[bytes]:
    """The wanted ones of the events that come after the cursor, which moves with them."""
    for item in items:
        if cursor.move(item.place, item.offset + 1) and wanted.admit(item):
            yield item.message + id_line(cursor)


def id_line(cursor: Cursor) -> bytes:
    """The end of a message: its id."""
    return b"id: %b\n\n" % cursor.token()


def pieces(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Messages joined to pieces of about PIECE_BYTES."""
    gathered: list[bytes] = []
    size = 0
    for message in messages:
        gathered.append(message)
        size += len(message)
        if size >= PIECE_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)


def furthest(one: Offsets, other: Mapping[Place, int]) -> dict[Place, int]:
    """For each place of the first, the larger offset of the two."""
    return {place: max(offset, other.get(place, 0)) for place, offset in one.items()}
