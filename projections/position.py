"""Positions as tokens: what an answer reflects, and what a caller wants reflected."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping

import orjson

from projections.view import Offsets, Place
from schemas.errors import HeadwaterError

Position = Mapping[str, Mapping[int, int]]
"""Topic (without namespace) -> partition -> next offset: everything below it."""
_MOST = 2**63 - 1


class BadToken(HeadwaterError):
    """A position token is not one of ours."""


def encode(position: Position) -> str:
    """A position as an opaque URL-safe token."""
    plain = {
        topic: {str(p): offset for p, offset in sorted(partitions.items())}
        for topic, partitions in sorted(position.items())
    }
    return base64.urlsafe_b64encode(orjson.dumps(plain)).decode().rstrip("=")


class Cursor:
    """A position that moves on event by event; `token` is then a tenth of the work of `encode`."""

    def __init__(self, offsets: Offsets) -> None:
        self._topics: dict[str, dict[str, int]] = {}
        for (topic, partition), offset in sorted(offsets.items()):
            self._topics.setdefault(topic, {})[str(partition)] = offset
        self._parts = {topic: _part(topic, known) for topic, known in self._topics.items()}
        self._stale: set[str] = set()

    def move(self, place: Place, offset: int) -> bool:
        """Set a place's next offset; False, and nothing moves, where it is there already or not of this position."""
        topic, partition = place[0], str(place[1])
        known = self._topics.get(topic, {})
        if known.get(partition, offset) >= offset:
            return False
        known[partition] = offset
        self._stale.add(topic)
        return True

    def token(self) -> bytes:
        """As `encode` gives it."""
        for topic in self._stale:
            self._parts[topic] = _part(topic, self._topics[topic])
        self._stale.clear()
        return base64.urlsafe_b64encode(b"{%b}" % b",".join(self._parts.values())).rstrip(b"=")


def _part(topic: str, partitions: Mapping[str, int]) -> bytes:
    return orjson.dumps({topic: partitions})[1:-1]


def decode(token: str) -> dict[str, dict[int, int]]:
    """The position in a token. Raises BadToken."""
    try:
        plain = orjson.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        position = {
            topic: {int(p): offset for p, offset in partitions.items()} for topic, partitions in plain.items()
        }
        numbers = [n for partitions in position.values() for pair in partitions.items() for n in pair]
        if not all(type(n) is int and 0 <= n <= _MOST for n in numbers):
            raise ValueError("offsets and partitions are whole numbers from 0")
    except (ValueError, AttributeError, TypeError, binascii.Error) as error:
        raise BadToken(
            "this is not a position token", hint="send one back as you got it, in `position`"
        ) from error
    return position


def position_of(offsets: Iterable[Offsets]) -> dict[str, dict[int, int]]:
    """The position that several views have all reached: where two read the same place, the smaller."""
    position: dict[str, dict[int, int]] = {}
    for each in offsets:
        for (topic, partition), offset in each.items():
            known = position.setdefault(topic, {})
            known[partition] = min(known.get(partition, offset), offset)
    return position
