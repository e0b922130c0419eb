"""What was decided about versions is the same for every reader, and one of two at a time counts."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import FoldCutOver
from streams.versions.plan import Plan


def record(phase: Any, from_version: int | None, to: int, id_: str = "a", **more: Any) -> FoldCutOver:
    """A record of the fold `f`."""
    return FoldCutOver(
        fold="f", cut_over_id=id_, phase=phase, from_version=from_version, to_version=to, by="me", **more
    )


FIRST = record("decided", None, 1, "first")


def after(*records: FoldCutOver) -> tuple[Plan, list[bool]]:
    """The plan, and which of the records counted."""
    plan = Plan()
    return plan, [plan.apply(r, float(i)) for i, r in enumerate(records)]


def test_a_cut_over_is_proposed_and_decided() -> None:
    """Proposed it is under way and changes nothing; decided it is in force; the first version stays known."""
    plan, _ = after(FIRST, record("proposed", 1, 2))
    standing = plan.folds["f"]
    assert (standing.version, standing.base, standing.proposed_at) == (1, 1, 1.0)
    assert standing.proposed is not None
    assert plan.apply(record("decided", 1, 2), 2.0)
    standing = plan.folds["f"]
    assert (standing.version, standing.base, standing.proposed, standing.at) == (2, 1, None, 2.0)


def test_the_first_of_two_counts() -> None:
    """A fold begins once, and while a cut-over is under way no other one is."""
    second = record("decided", None, 2, "second")
    _, counted = after(FIRST, second, record("proposed", 1, 2, "a"), record("proposed", 1, 3, "b"))
    assert counted == [True, False, True, False]


def test_what_starts_out_from_another_version_is_void() -> None:
    """A record that was written in ignorance of a decision changes nothing."""
    _, counted = after(FIRST, record("decided", 2, 3, at_once=True), record("proposed", 2, 3))
    assert counted == [True, False, False]


def test_only_what_was_proposed_can_be_decided() -> None:
    """A decision needs its proposal, unless it is to be done at once; one that was given up stays so."""
    proposed, cancelled, decided = (record(p, 1, 2) for p in ("proposed", "cancelled", "decided"))
    assert after(FIRST, decided)[1] == [True, False]
    assert after(FIRST, proposed, cancelled, decided)[1] == [True, True, True, False]
    assert after(FIRST, cancelled)[1] == [True, False]


def test_at_once_ends_what_is_under_way() -> None:
    """A rollback that cannot wait puts an end to a proposal, which can then not be decided any more."""
    urgent = record("decided", 1, 3, "urgent", at_once=True)
    plan, counted = after(FIRST, record("proposed", 1, 2), urgent, record("decided", 1, 2))
    assert counted == [True, True, True, False]
    assert plan.folds["f"].version == 3


RECORDS = st.builds(
    record,
    st.sampled_from(["proposed", "decided", "cancelled"]),
    st.sampled_from([None, 1, 2, 3]),
    st.integers(1, 3),
    st.sampled_from("abc"),
    at_once=st.booleans(),
)


@given(st.lists(RECORDS, max_size=20))
def test_a_version_in_force_comes_from_the_one_before(records: list[FoldCutOver]) -> None:
    """Whatever is written: decisions form a chain, each from the one before; one proposal is open at most."""
    plan = Plan()
    version: int | None = None
    for at, each in enumerate(records):
        counted = plan.apply(each, float(at))
        standing = plan.folds.get("f")
        if counted and each.phase == "decided":
            assert each.from_version == version
            version = each.to_version
        assert (standing.version if standing else None) == version
        if standing is not None and standing.proposed is not None:
            assert standing.proposed.from_version == version
