"""A version of a fold that is run over the history of one partition, to be compared with another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from processors.fold import Fold
from schemas.codec import Codec, Record
from schemas.events import DeadLetter, Tick
from schemas.topics import Topic
from streams.folding.engine import Engine, Poison
from streams.folding.snapshots import Skip
from streams.partitions.letters import said
from streams.partitions.log import Send
from streams.versions.recorded import Place


class Raised(NamedTuple):
    """A version raised on the record at `offset`, or when it was woken before it."""

    version: int
    topic: str
    partition: int
    offset: int
    key: str
    why: str


class Spoilt(Exception):
    """A version raised, and its state may be spoilt: fold again without that."""

    def __init__(self, version: int, skip: Skip, said: Raised) -> None:
        super().__init__(said.why)
        self.version, self.skip, self.said = version, skip, said


class Side:
    """One of the two versions in one partition."""

    def __init__(
        self,
        fold: Fold[Any],
        version: int,
        topic: Topic,
        place: Place,
        codec: Codec,
        skips: Iterable[Skip],
        poison: Mapping[tuple[int, Skip], Raised],
    ) -> None:
        self.place = place
        self.letters: list[Raised] = []
        self._fold = fold.name
        self._version = version
        self._codec = codec
        self.engine = Engine(topic, place[1], [fold], codec)
        self.engine.skips.update(dict.fromkeys(skips))
        self.engine.skips.update({skip: None for of, skip in poison if of == version})

    def take(self, record: Record) -> list[Send]:
        """What it says to a record. Raises Spoilt."""
        return self._said(lambda: self.engine.process([record]), record.key)

    def tick(self, tick: Tick) -> list[Send]:
        """What it says to a tick. Raises Spoilt."""
        self.engine.position = tick.after_offset
        return self._said(lambda: self.engine.tick(tick.at), None)

    def _said(self, give: Callable[[], list[Send]], key: bytes | None) -> list[Send]:
        try:
            sends = give()
        except Poison as poison:
            raise Spoilt(self._version, poison.skip, self._raised(poison, key)) from poison
        for skip, letter in self.engine.letters:
            told = self._codec.decode(letter.value)
            assert isinstance(told, DeadLetter)
            if skip.fold == self._fold:
                why = f"{told.error_type}: {told.error_message}"
                self.letters.append(Raised(self._version, *self.place, skip.offset, _text(key), why))
        self.engine.letters.clear()
        return sends

    def _raised(self, poison: Poison, key: bytes | None) -> Raised:
        offset = poison.skip.offset if poison.skip.offset >= 0 else self.engine.position
        why = f"{type(poison.cause).__name__}: {said(poison.cause)}"
        return Raised(self._version, *self.place, offset, poison.skip.key or _text(key), why)


def _text(key: bytes | None) -> str:
    return (key or b"").decode(errors="replace")
