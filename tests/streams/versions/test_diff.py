"""Two versions over one history: exactly what they say otherwise is found, and nothing is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.anomaly import Anomaly, Watched
from processors.fold import Output
from processors.versions import NoSuchFold, by_name
from schemas import events as e
from schemas import topics
from streams.folding.candidate import MOST_RAISED
from streams.partitions.log import Send
from streams.versions.comparing import EXAMPLES, Comparison, Given
from streams.versions.diff import Compared, Differ, NotComparable
from tests.streams.folds import CURSED, UNLUCKY, Chain, Echo, Links, Silence, found
from tests.streams.harness import ALWAYS, CHANGELOG, CODEC, SIGNALS, Partition
from tests.streams.versions.successors import Chain2, Chain3, Echo2, Silence2, as_seen
from tests.streams.versions.test_task import began, decide, facts, put


async def compared(
    bed: Partition, fold: str, candidate: int | None = None, since: float | None = None
) -> Compared:
    """What `headwater folds diff` computes."""
    differ = Differ(
        fold,
        candidate,
        by_name(bed.folds()),
        bed.decisions,
        bed.log,
        CODEC,
        secret=bed.secret,
        context="folds",
        since=since,
    )
    return await differ.run([(SIGNALS, 0)])


def counts(found: Compared) -> dict[str, dict[str, int]]:
    """By event type; what is nought is left out."""
    return {n: {v: c for v, c in by.items() if c} for n, by in found.comparison.counts.items()}


class Rounded(Anomaly):
    """The product's fold with two changes: a word, and no alarms about one component."""

    version = 2

    def on_event(self, state: Watched, event: e.Event, at: float) -> Iterator[e.Event]:
        for said in super().on_event(state, event, at):
            assert isinstance(said, e.AnomalyDetected)
            if said.component == "tool:quiet":
                continue
            if said.component == "tool:renamed":
                said = said.model_copy(update={"summary": said.summary.upper()})  # noqa: PLW2901 - it is what is said
            yield said
            if said.component == "tool:loud":
                yield said.model_copy(update={"detector": "echo"})


class Same(Anomaly):
    """The product's fold under another number."""

    version = 3


async def test_a_changed_copy_of_a_real_fold() -> None:
    """Left out, changed and added findings are found, each counted where it is; the rest is the same."""
    tools = [f"tool:{name}" for name in ("quiet", "renamed", "loud", "same")]
    bed = Partition(lambda: [Anomaly(), Rounded(), Same()], interval_s=ALWAYS)
    await decide(bed, "anomaly", 1, None)
    for i in range(400):
        for number, tool in enumerate(tools):
            bed.log.now += 1.0
            bed.put(900.0 if i in {300 + 20 * number, 390} else 10.0 + (i * 7 + number) % 5, tool)
    await bed.drain(await bed.up(), 100)
    by_tool = {tool: sum(tool.encode() in (v or b"") for _, v, _ in bed.outputs()) for tool in tools}
    assert min(by_tool.values()) >= 1
    before = {topic: bed.log.records(topic, 0) for topic in bed.log.partitions}
    positions = dict(bed.log.positions)
    result = await compared(bed, "anomaly", 2)
    quiet, renamed, loud, same = (by_tool[tool] for tool in tools)
    assert counts(result) == {
        "AnomalyDetected": {"only_old": quiet, "changed": renamed, "only_new": loud, "same": same + loud}
    }
    assert dict(result.comparison.keys) == {
        f"default/{tool}": by_tool[tool] for tool in tools if tool != "tool:same"
    }
    assert not result.same
    assert result.comparison.inputs == 1600
    for example in result.comparison.examples:
        cause = next(r for r in before[SIGNALS] if r.offset == example.given.offset)
        assert (cause.key or b"").decode() == example.key
        if example.verdict == "changed":
            assert example.old is not None
            assert example.new is not None
            assert example.old["summary"].upper() == example.new["summary"]
    assert (await compared(bed, "anomaly", 3)).same
    assert {topic: bed.log.records(topic, 0) for topic in bed.log.partitions} == before
    assert bed.log.positions == positions


async def test_it_comes_out_the_same_again() -> None:
    """The same log gives the same answer, examples included, whatever time it takes."""
    bed = await began(lambda: [Chain(), Chain2()], interval_s=ALWAYS)
    put(bed, 60)
    await bed.drain(await bed.up(), 7)
    one, other = await compared(bed, "chain"), await compared(bed, "chain")
    assert one.comparison.examples == other.comparison.examples
    assert (counts(one), one.comparison.keys) == (counts(other), other.comparison.keys)


async def test_what_the_version_in_force_said_is_what_it_is_compared_with() -> None:
    """What is taken for the old version's outputs are those in the log, each of them, since it came into force."""
    bed = await began(lambda: [Chain(), Chain2(), Chain3()], interval_s=ALWAYS)
    task = await bed.up()
    put(bed, 30)
    await bed.drain(task, 7)
    await decide(bed, "chain", 3, 1, state="migrate")
    put(bed, 30)
    await bed.drain(task, 7)
    (fact,) = facts(bed)
    said: list[Any] = []
    add = Comparison.add

    def noting(self: Comparison, given: Given, old: list[Send], new: list[Send]) -> None:
        said.extend(as_seen(send) for send in old)
        add(self, given, old, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Comparison, "add", noting)
        result = await compared(bed, "chain", 1)
    third = [o for o in bed.outputs() if dict(o[2])["ce_foldversion"] == b"3"]
    assert third
    assert said == third
    assert result.ranges == {(SIGNALS, 0): (fact.position, bed.log.positions[SIGNALS, 0])}


async def test_time_is_what_it_was() -> None:
    """Both are told the recorded ticks; what they said when they were woken is compared, too."""
    bed = await began(lambda: [Silence(), Silence2()])
    task = await bed.up()
    for _ in range(6):
        put(bed, 3, 3)
        await bed.drain(task)
        for _ in range(2):
            bed.log.now += 45.0
            await task.idle()
    woken = len(bed.outputs())
    assert woken > 5
    result = await compared(bed, "silence")
    (by,) = result.comparison.counts.values()
    assert by["same"] + by["changed"] + by["only_old"] == woken
    assert any(example.given.at is not None for example in result.comparison.examples)


async def test_since() -> None:
    """With a time, all of the history is folded, and what is compared are the answers to records since then."""
    bed = await began(lambda: [Echo(), Echo2(), Chain()])
    put(bed, 20)
    bed.log.now += 100.0
    middle = bed.log.now
    put(bed, 10)
    await bed.drain(await bed.up())
    assert counts(await compared(bed, "echo")) == {"AnomalyDetected": {"same": 30, "only_new": 30}}
    recent = await compared(bed, "echo", since=middle)
    assert counts(recent) == {"AnomalyDetected": {"same": 10, "only_new": 10}}
    assert recent.comparison.inputs == 10


async def test_only_what_the_group_has_folded() -> None:
    """Records that the version in force has not answered yet are left out."""
    bed = await began(lambda: [Echo(), Echo2(), Chain()])
    put(bed, 20)
    await bed.drain(await bed.up())
    put(bed, 10)
    assert (await compared(bed, "echo")).comparison.inputs == 20


class Fragile(Chain):
    """Raises where the old one does not."""

    version = 2

    def on_event(self, state: Links, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        state.count += 50
        if event.value == CURSED:
            raise KeyError("cursed")
        state.count -= 50
        return super().on_event(state, event, at)


async def test_what_a_version_raises_on() -> None:
    """It is listed, its state is as if the record had not been; what the old one could not take neither gets."""
    bed = await began(lambda: [Chain(), Fragile(), Echo()])
    for value in (20, UNLUCKY, 30, CURSED, 40, 50, 60, CURSED, 70):
        bed.put(value)
    await bed.drain(await bed.up())
    result = await compared(bed, "chain")
    assert [(x.version, x.offset, x.key, x.why) for x in result.raised] == [
        (2, 3, "default/c", "KeyError: 'cursed'"),
        (2, 7, "default/c", "KeyError: 'cursed'"),
    ]
    assert not result.same
    bed.erase(CHANGELOG)  # with it the skip: now the old one raises, too
    assert [(x.version, x.offset) for x in (await compared(bed, "chain")).raised] == [
        (1, 1),
        (2, 1),
        (2, 3),
        (2, 7),
    ]


async def test_a_version_that_raises_on_everything() -> None:
    """After some records it is given up, and said where it raised."""
    bed = await began(lambda: [Chain(), Fragile()])
    for _ in range(MOST_RAISED + 1):
        bed.put(CURSED)
    await bed.drain(await bed.up())
    with pytest.raises(NotComparable, match=r"version 2 raises on more than 10 records .* such as offset 10"):
        await compared(bed, "chain")


class Faulty(Echo):
    """Keeps no state, and raises."""

    version = 2

    def on_event(self, state: None, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        if event.value == CURSED:
            raise KeyError("cursed")
        yield from super().on_event(state, event, at)


async def test_a_fold_without_state_that_raises() -> None:
    """It goes on, as it would at work, and what it raised on is listed."""
    bed = await began(lambda: [Echo(), Faulty(), Chain()])
    for value in (20, CURSED, 30):
        bed.put(value)
    await bed.drain(await bed.up())
    result = await compared(bed, "echo")
    assert counts(result) == {"AnomalyDetected": {"same": 2, "only_old": 1}}
    assert [(x.version, x.offset, x.why) for x in result.raised] == [(2, 1, "KeyError: 'cursed'")]


async def test_what_cannot_be_compared_is_said() -> None:
    """No such fold, no such version, nothing newer, a version in force whose code is away, one that never ran."""

    async def refused(bed: Partition, fold: str, candidate: int | None = None) -> str:
        with pytest.raises((NotComparable, NoSuchFold)) as error:
            await compared(bed, fold, candidate)
        return str(error.value)

    bed = await began(lambda: [Chain(), Chain3(), Echo()])
    assert "there is no fold nonsense here (there are: chain, echo)" in await refused(bed, "nonsense")
    assert "version 2 is not installed here, there are: 1, 3" in await refused(bed, "chain", 2)
    assert "version 1 is in force, and there is no other" in await refused(bed, "echo")
    assert "version 1 is in force, and there is no other" in await refused(bed, "chain", 1)
    task = await bed.up()
    put(bed, 10)
    await bed.drain(task)
    await decide(bed, "chain", 3, 1, state="migrate")
    put(bed, 10)
    await bed.drain(task)
    assert "version 3 is in force, and there is no other" in await refused(bed, "chain")
    bed.folds = lambda: [Chain2(), Chain3()]
    assert "was taken over from a version that is not installed" in await refused(bed, "chain", 2)
    bed.folds = lambda: [Chain(), Chain2()]
    assert "version 3 is in force and not installed here" in await refused(bed, "chain")
    bed.folds = lambda: [Chain(), Silence(), Silence2()]
    assert "fold silence has never run on this log" in await refused(bed, "silence")


# --- matching ----------------------------------------------------------------------------------


def sent(component: str, value: float) -> Send:
    """An output."""
    event = found(component, "d", value, 0.0)
    return Send(
        topics.ANOMALIES.name, component.encode(), CODEC.encode(event), (("ce_type", b"AnomalyDetected"),)
    )


OUTPUTS = st.lists(st.builds(sent, st.sampled_from("ab"), st.integers(0, 3)), max_size=6)


@given(OUTPUTS, OUTPUTS)
def test_each_output_is_counted_once(old: list[Send], new: list[Send]) -> None:
    """Same, changed and only-old make up what the old one said; same, changed and only-new what the new one did."""
    comparison = Comparison(CODEC)
    comparison.add(Given(SIGNALS, 0, 1), old, new)
    by: Counter[Any] = comparison.counts.get("AnomalyDetected", Counter())
    assert sum(by[v] for v in ("same", "changed", "only_old")) == len(old)
    assert sum(by[v] for v in ("same", "changed", "only_new")) == len(new)
    assert comparison.keys.total() == comparison.differences


@given(OUTPUTS, st.randoms(use_true_random=False))
def test_order_does_not_matter(old: list[Send], random: Any) -> None:
    """Outputs to one input are a set, not a list: an additional one does not shift the others."""
    new = [*old, sent("a", 9)]
    random.shuffle(new)
    comparison = Comparison(CODEC)
    comparison.add(Given(SIGNALS, 0, 1), old, new)
    by = comparison.counts["AnomalyDetected"]
    assert (by["same"], by["only_new"], by["changed"], by["only_old"]) == (len(old), 1, 0, 0)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each kind some examples are kept, of keys so many, and the rest is counted together."""
    monkeypatch.setattr("streams.versions.comparing.MOST_KEYS", 3)
    total = Comparison(CODEC)
    for partition in range(2):
        comparison = Comparison(CODEC)
        for i in range(20):
            comparison.add(Given(SIGNALS, partition, i), [sent(f"k{partition}{i}", 1)], [])
        total.merge(comparison)
    assert len(total.examples) == EXAMPLES
    assert total.keys.total() == total.differences == 40
    assert set(total.keys) == {"k00", "k01", "k02", None}
