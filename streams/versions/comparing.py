"""What two versions of a fold said to the same input, held against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

from schemas.codec import Codec
from streams.partitions.log import Send

Verdict = Literal["same", "changed", "only_old", "only_new"]
VERDICTS: tuple[Verdict, ...] = ("same", "changed", "only_old", "only_new")
MOST_KEYS = 10_000
"""Keys with differences that are counted one by one; the rest together, as None."""
EXAMPLES = 5
"""Of each event type and verdict."""


class Given(NamedTuple):
    """What both were given: the record at `offset`, or (`at` is set) a tick before it."""

    topic: str
    partition: int
    offset: int
    at: float | None = None


class Example(NamedTuple):
    """One difference. `old` and `new` are the events' fields."""

    given: Given
    verdict: Verdict
    event: str
    key: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None


class Comparison:
    """Counts by event type and verdict, differences by key, and the first of each kind.

    Outputs to one input are matched by event type and key: equal values are the same, whatever
    their order; what is left is paired as changed; what is left then, one version alone said. Ids
    are made of the version and not compared.
    """

    def __init__(self, codec: Codec) -> None:
        self.inputs = 0
        self.counts: dict[str, Counter[Verdict]] = {}
        self.keys: Counter[str | None] = Counter()
        self.examples: list[Example] = []
        self._codec = codec
        self._shown: Counter[tuple[str, Verdict]] = Counter()

    @property
    def differences(self) -> int:
        """How many outputs are not the same."""
        return sum(n for by_verdict in self.counts.values() for v, n in by_verdict.items() if v != "same")

    def add(self, given: Given, old: Sequence[Send], new: Sequence[Send]) -> None:
        """Count what both said to one input."""
        self.inputs += 1
        if not old and not new:
            return
        said: dict[tuple[str, str], tuple[list[bytes], list[bytes]]] = {}
        for side, sends in enumerate((old, new)):
            for send in sends:
                name = dict(send.headers)["ce_type"].decode()
                said.setdefault((name, send.key.decode()), ([], []))[side].append(send.value or b"")
        for (name, key), (olds, news) in said.items():
            self._match(given, name, key, olds, news)

    def merge(self, other: Comparison) -> None:
        """Take over what another one counted."""
        self.inputs += other.inputs
        for name, counted in other.counts.items():
            self.counts.setdefault(name, Counter()).update(counted)
        for key, number in other.keys.items():
            self._differs(key, number)
        for example in other.examples:
            self._show(example)

    def _match(self, given: Given, name: str, key: str, old: list[bytes], new: list[bytes]) -> None:
        counts = self.counts.setdefault(name, Counter())
        same = Counter(old) & Counter(new)
        counts["same"] += same.total()
        for was, is_ in zip_longest(_without(old, same), _without(new, same)):
            verdict: Verdict = "only_new" if was is None else "only_old" if is_ is None else "changed"
            counts[verdict] += 1
            self._differs(key, 1)
            if self._shown[name, verdict] < EXAMPLES:
                self._show(Example(given, verdict, name, key, self._fields(was), self._fields(is_)))

    def _differs(self, key: str | None, number: int) -> None:
        counted = key if key in self.keys or len(self.keys) < MOST_KEYS else None
        self.keys[counted] += number

    def _show(self, example: Example) -> None:
        if self._shown[example.event, example.verdict] < EXAMPLES:
            self._shown[example.event, example.verdict] += 1
            self.examples.append(example)

    def _fields(self, value: bytes | None) -> dict[str, Any] | None:
        return self._codec.decode(value).model_dump(mode="json") if value is not None else None


def _without(values: list[bytes], same: Counter[bytes]) -> list[bytes]:
    left, rest = same.copy(), []
    for value in values:
        if left[value]:
            left[value] -= 1
        else:
            rest.append(value)
    return rest
