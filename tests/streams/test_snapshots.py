"""States to bytes and back, and who may say so."""

from __future__ import annotations

import collections
from typing import Any

import msgspec
import numpy as np
import pytest
from river import anomaly

from streams.folding.snapshots import Marker, Sealer, Skip, Snapshot, SnapshotRefused, dump_state, load_state
from tests.streams.folds import Learned, Model
from tests.streams.harness import signal


class Mixed(msgspec.Struct):
    """One field of each kind."""

    number: float = 0.0
    count: int = 0
    flag: bool = False
    names: dict[str, float] = {}
    anything: Any = None


def there_and_back(state: msgspec.Struct, river: str | None = None) -> Any:
    """The state as a restore gets it."""
    snapshot = Snapshot("f", 1, "k", 5, dump_state(state), None, "")
    if river:
        snapshot = msgspec.structs.replace(snapshot, river=river)
    return load_state(type(state), snapshot)


class Renamed:
    """A model whose class has changed since it was pickled."""

    def __init__(self) -> None:
        self.x = 1

    def __setstate__(self, state: Any) -> None:
        raise TypeError("changed")


def test_models_go_on_where_they_were() -> None:
    """River models restored from bytes score all that follows as the originals do."""
    fold = Learned()
    state = fold.initial("k")
    for i in range(30):
        list(fold.on_event(state, signal(i * 7 % 50), 0.0))
    restored = there_and_back(state)
    assert restored.trees is not state.trees
    for i in range(30):
        assert list(fold.on_event(restored, signal(i), 0.0)) == list(fold.on_event(state, signal(i), 0.0))


def test_numpys_numbers_are_numbers() -> None:
    """What numpy and river compute can be saved in typed fields, and comes back as plain numbers."""
    restored = there_and_back(
        Mixed(np.float64(1.5), np.int64(3), np.bool_(True), {"a": np.float32(0.5)})  # type: ignore[arg-type,dict-item]
    )
    assert restored == Mixed(1.5, 3, True, {"a": 0.5})
    assert type(restored.number) is float


@pytest.mark.parametrize(
    "value",
    [
        (1, "a"),
        {1, 2},
        collections.defaultdict(list, {1: [2]}),
        collections.deque([1], maxlen=2),
        None,
        1.5,
        "x",
    ],
)
def test_any_comes_back_as_it_was(value: Any) -> None:
    """A field typed Any keeps its value's type: a fold must not notice that it was restored."""
    restored = there_and_back(Mixed(anything=value)).anything
    assert restored == value
    assert type(restored) is type(value)


def test_dumping_leaves_the_state_alone() -> None:
    """The state that was saved is still the one in use."""
    model = anomaly.HalfSpaceTrees(n_trees=2, height=2)
    state = Model(trees=model)
    dump_state(state)
    assert state.trees is model


def test_another_river_is_refused() -> None:
    """Models of another river version are not unpickled; state without models does not mind."""
    with pytest.raises(SnapshotRefused, match=r"river 0\.0\.1"):
        there_and_back(Model(trees=anomaly.HalfSpaceTrees(n_trees=2, height=2)), river="0.0.1")


def test_what_does_not_unpickle_is_refused() -> None:
    """Whatever a changed class raises, the answer is to fold the log anew."""
    with pytest.raises(SnapshotRefused, match="changed"):
        there_and_back(Mixed(anything=Renamed()))
    with pytest.raises(SnapshotRefused):
        load_state(Mixed, Snapshot("f", 1, "k", 5, b"\xc1", None, ""))
    with pytest.raises(SnapshotRefused):
        load_state(Mixed, Snapshot("f", 1, "k", 5, msgspec.msgpack.encode({"number": "x"}), None, ""))


CONTENTS: list[Snapshot | Marker | Skip] = [
    Snapshot("f", 1, "k", 5, b"state", 1.5, "p"),
    Marker(7, {"f": 1}, {"": 1.0}, 3),
    Skip("f", 9, "k", 2.0),
]


@pytest.mark.parametrize("content", CONTENTS, ids=lambda c: type(c).__name__)
def test_what_is_sealed_opens(content: Any) -> None:
    """Sealed content comes back, under its own name and to the holder of the key."""
    sealer = Sealer(b"secret", "ns.folds/signals/0")
    assert (
        Sealer(b"secret", "ns.folds/signals/0").open(type(content), b"name", sealer.seal(b"name", content))
        == content
    )


@pytest.mark.parametrize(
    ("secret", "context", "name"),
    [
        (b"other", "ns.folds/signals/0", b"name"),
        (b"secret", "other.folds/signals/0", b"name"),
        (b"secret", "ns.folds/steps/0", b"name"),
        (b"secret", "ns.folds/signals/1", b"name"),
        (b"secret", "ns.folds/signals/0", b"another"),
    ],
    ids=["secret", "namespace", "topic", "partition", "key"],
)
def test_a_seal_holds_for_one_place(secret: bytes, context: str, name: bytes) -> None:
    """Content of another secret, namespace, topic, partition or record key is refused."""
    value = Sealer(b"secret", "ns.folds/signals/0").seal(b"name", CONTENTS[0])
    with pytest.raises(SnapshotRefused, match="signature"):
        Sealer(secret, context).open(Snapshot, name, value)


def test_every_changed_byte_is_seen() -> None:
    """A value with any byte changed, or cut anywhere, is refused before anything of it is read."""
    sealer = Sealer(b"secret", "c")
    value = sealer.seal(b"name", CONTENTS[0])
    for i in range(len(value)):
        for forged in (value[:i] + bytes([value[i] ^ 1]) + value[i + 1 :], value[:i]):
            with pytest.raises(SnapshotRefused):
                sealer.open(Snapshot, b"name", forged)


def test_one_kind_is_not_taken_for_another() -> None:
    """What was sealed as a snapshot is no marker, whatever it is opened as."""
    sealer = Sealer(b"secret", "c")
    with pytest.raises(SnapshotRefused, match="not readable"):
        sealer.open(Marker, b"name", sealer.seal(b"name", CONTENTS[0]))
