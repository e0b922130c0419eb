"""Dropping duplicates within a stated span of offsets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import Name
from streams.folding.window import WINDOW, Window


def named(id: str, project: str = "p", source: str = "s") -> Name:
    """An event's name."""
    return project, source, id


def test_the_span_is_exact() -> None:
    """An event is a duplicate up to WINDOW offsets after it stood there, and not one offset later."""
    for distance, duplicate in ((1, True), (WINDOW, True), (WINDOW + 1, False)):
        window = Window()
        window.seen(named("a"), 100)
        assert window.seen(named("a"), 100 + distance) is duplicate


def test_the_name_is_project_source_and_id() -> None:
    """Events that differ in one of the three are two events."""
    window = Window()
    assert not window.seen(named("a"), 0)
    assert not window.seen(named("a", project="q"), 1)
    assert not window.seen(named("a", source="t"), 2)
    assert window.seen(named("a"), 3)


@given(st.lists(st.integers(0, 8), max_size=80), st.integers(0, 80))
def test_read_anew_it_says_the_same(names: list[int], cut: int) -> None:
    """A window filled from `span` offsets before some point says of all that follows what a full one says."""
    full, anew = Window(span=10), Window(span=10)
    offsets = [2 * i for i in range(len(names))]  # commit markers leave gaps
    for name, offset in zip(names, offsets, strict=True):
        said = full.seen(named(str(name)), offset)
        if offset >= cut:
            assert anew.seen(named(str(name)), offset) is said
        elif offset >= cut - 10:
            anew.seen(named(str(name)), offset)


def test_it_forgets() -> None:
    """It holds no more than its span, however much goes through."""
    window = Window(span=10)
    for offset in range(1000):
        window.seen(named(str(offset)), offset)
    assert len(window._last) <= 11
    assert len(window._order) <= 11
