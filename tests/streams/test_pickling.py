"""Pickles of models: what they bring back, and that they leave the objects as they were."""

from __future__ import annotations

import collections
import gc
import pickle
import random
import sys
from typing import Any

import pytest
from river import anomaly, drift, forest, linear_model, preprocessing, stats

from streams.folding.pickling import dumps


class Plain:
    """Two attributes, and a third for some."""

    def __init__(self, number: int, *, more: bool = False) -> None:
        self.name = f"n{number}"
        self.values = [number, {"a": (number,)}]
        if more:
            self.more = number


class WithDefaults:
    """Attributes that the class has, too."""

    level = 3
    seen: int | None = None

    def __init__(self, *, own: bool) -> None:
        self.always = "x"
        if own:
            self.level = 4


class WithProperty:
    """An attribute that a property of the same name hides."""

    def __init__(self) -> None:
        self.__dict__["size"] = 7
        self.other = 1

    @property
    def size(self) -> int:
        return 99


class WithSlots:
    """No dictionary at all."""

    __slots__ = ("left", "right")

    def __init__(self) -> None:
        self.left = 1


class OfDict(dict[str, int]):
    """A builtin with attributes."""


class WithState:
    """Says itself what is saved."""

    def __init__(self) -> None:
        self.kept, self.dropped = 1, 2

    def __getstate__(self) -> dict[str, int]:
        return {"kept": self.kept}


class Empty:
    """No attributes."""


class OneDictionary:
    """Its one attribute is a dictionary, which looks like an instance's own."""

    def __init__(self) -> None:
        self.content = {"k": 1}


def attributes(value: Any) -> dict[str, Any]:
    """What an object holds, its slots included."""
    held = dict(vars(value)) if hasattr(value, "__dict__") else {}
    return held | {n: getattr(value, n) for n in getattr(value, "__slots__", ()) if hasattr(value, n)}


KINDS: list[Any] = [
    Plain(1), Plain(2, more=True), Plain(3), WithDefaults(own=False), WithDefaults(own=True), WithProperty(),
    WithSlots(), OfDict(a=1), WithState(), Empty(), OneDictionary(),
]  # fmt: skip


@pytest.mark.parametrize("again", [1, 2], ids=["first", "second"])
@pytest.mark.parametrize("value", KINDS, ids=lambda v: type(v).__name__)
def test_what_comes_back_is_what_pickle_brings_back(value: Any, again: int) -> None:
    """Of every kind of class, whether its layout is known by then or not."""
    for _ in range(again):
        got = pickle.loads(dumps(value))
    expected = pickle.loads(pickle.dumps(value))
    assert type(got) is type(expected)
    assert attributes(got) == attributes(expected)
    if isinstance(value, dict):
        assert got == value


def test_attributes_that_come_and_go() -> None:
    """Instances of one class with other attributes than those seen before are saved whole."""
    rng = random.Random(3)
    for _ in range(200):
        value = Empty()
        for name in rng.sample("abcdefgh", rng.randrange(9)):
            setattr(value, name, rng.random())
        assert attributes(pickle.loads(dumps(value))) == attributes(value)


def test_sharing_and_cycles() -> None:
    """What is one object stays one, and may hold itself."""
    value = Plain(1)
    value.values = [value, value.values, value]
    got = pickle.loads(dumps([value, value]))
    assert got[0] is got[1] is got[0].values[0] is got[0].values[2]


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="from 3.13 on attributes stay inline by themselves")
def test_attributes_stay_inline() -> None:
    """Neither saving nor loading makes a dictionary of an object: its values are held by itself."""
    dumps(Plain(0))  # from which the layout is learned
    value = Plain(1)
    got = pickle.loads(dumps(value))
    for each in (value, got):
        assert each.name in gc.get_referents(each)
    beside = Plain(2)
    pickle.dumps(beside)
    assert beside.name not in gc.get_referents(beside), "pickle has changed: this module may go"


def test_models_go_on_as_they_would_have() -> None:
    """River models of several kinds predict the same after a round trip, step by step."""
    rng = random.Random(11)
    trees = anomaly.HalfSpaceTrees(n_trees=3, height=4, window_size=20, seed=1)
    line = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    woods = forest.ARFClassifier(n_models=2, seed=1)
    numbers = [stats.EWMean(0.1), stats.Quantile(0.5), stats.RollingQuantile(0.5, 9), drift.PageHinkley()]
    models: Any = (trees, line, woods, numbers, collections.Counter())
    for step in range(300):
        if step % 60 == 0:
            copy = pickle.loads(dumps(models))
        x, y = {"a": rng.random(), "b": rng.random()}, rng.random() < 0.4
        said = []
        for tree, linear, wood, several, counts in (models, copy):
            tree.learn_one(x)
            linear.learn_one(x, y)
            wood.learn_one(x, y)
            for each in several:
                each.update(x["a"])
            counts[y] += 1
            got = [each.get() for each in several[:3]], dict(counts)
            said.append((tree.score_one(x), linear.predict_proba_one(x), wood.predict_proba_one(x), got))
        assert said[0] == said[1], step
