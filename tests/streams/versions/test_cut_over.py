"""The command's part of a cut-over: refusals in words, and nothing half done whatever becomes of the command."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from processors.fold import Output
from processors.versions import NoSuchFold, by_name
from schemas.events import Event, FoldCutOver
from streams.folding.task import PartitionTask
from streams.partitions.log import LogUnavailable
from streams.versions import session
from streams.versions.cut_over import (
    Asked,
    CutOver,
    CutOverRefused,
    NotAllReady,
    NotAllSwitched,
    StillProposed,
    proposal,
)
from streams.versions.decisions import Decisions
from streams.versions.listing import listing
from tests.streams.folds import Chain, Echo, Silence
from tests.streams.harness import CODEC, SIGNALS, Partition
from tests.streams.versions.successors import Chain2, Chain3
from tests.streams.versions.test_task import VERSIONS, began, check, facts, put

PLACES = [(SIGNALS, 0)]


def command(bed: Partition, asked: Asked) -> CutOver:
    """As another process gives it."""
    decisions = Decisions(bed.log, CODEC)
    return CutOver(wanted(bed, asked), PLACES, bed.log, CODEC, decisions, lambda: bed.log.now)


def wanted(bed: Partition, asked: Asked) -> FoldCutOver:
    """The record to begin with."""
    return proposal(asked, by_name(bed.folds()), bed.decisions)


async def bed_of_three() -> Partition:
    """Version 1 is in force, two more are installed, some records are folded."""
    return await began(lambda: [Chain(), Chain2(), Chain3(), Echo()])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Asked("nonsense"), r"there is no fold nonsense here \(there are: chain, echo\)"),
        (Asked("chain", 7), r"version 7 is not installed here, there are: 1, 2, 3"),
        (Asked("chain", 1), r"version 1 is in force already \(see"),
        (
            Asked("echo"),
            r"version 1 is in force already, and no newer one is installed here \(there are: 1\)",
        ),
    ],
)
async def test_what_cannot_be_done_is_refused(asked: Asked, says: str) -> None:
    """Each refusal names the fold and what is there, and nothing is written."""
    bed = await bed_of_three()
    before = len(bed.log.records("headwater.folds", 0))
    with pytest.raises((CutOverRefused, NoSuchFold), match=says):
        wanted(bed, asked)
    assert len(bed.log.records("headwater.folds", 0)) == before


async def test_a_fold_that_never_ran() -> None:
    """Where nothing is in force there is nothing to be cut over from."""
    bed = await bed_of_three()
    bed.folds = lambda: [Silence()]
    with pytest.raises(CutOverRefused, match="fold silence has never run on this log"):
        wanted(bed, Asked("silence", 1))


async def test_what_is_proposed_by_default() -> None:
    """The newest version; its predecessor's state is migrated where it says it can, unless told otherwise."""
    bed = await bed_of_three()

    def said(asked: Asked) -> tuple[Any, ...]:
        record = wanted(bed, asked)
        return record.phase, record.from_version, record.to_version, record.state, record.at_once

    assert said(Asked("chain")) == ("proposed", 1, 3, "migrate", False)
    assert said(Asked("chain", refold=True)) == ("proposed", 1, 3, "refold", False)
    assert said(Asked("chain", 2)) == ("proposed", 1, 2, "refold", False)
    assert said(Asked("chain", at_once=True)) == ("decided", 1, 3, "refold", True)


async def test_another_one_is_under_way() -> None:
    """To the same version a second command joins the first, to another it is refused, with who began it."""
    bed = await bed_of_three()
    first = command(bed, Asked("chain", 2, by="ann"))
    await first.begin()
    await bed.decisions.refresh()
    assert wanted(bed, Asked("chain", 2, by="bob")) == first.record
    with pytest.raises(CutOverRefused, match=r"to version 2 \(refold\) is under way \(by ann\)"):
        wanted(bed, Asked("chain", 3))


async def test_to_the_same_version_with_another_state() -> None:
    """Who asks for a state folded anew does not join a command that migrates it."""
    bed = await bed_of_three()
    first = command(bed, Asked("chain", 3, by="ann"))
    await first.begin()
    await bed.decisions.refresh()
    assert wanted(bed, Asked("chain", 3)) == first.record
    with pytest.raises(CutOverRefused, match=r"to version 3 \(migrate\) is under way"):
        wanted(bed, Asked("chain", 3, refold=True))


async def test_a_proposal_that_is_gone() -> None:
    """The command that waits for workers says at once that another one has given it up."""
    bed = await bed_of_three()
    running = asyncio.create_task(session.carry_out(command(bed, Asked("chain", 2)), 60.0, lambda _: None))
    await under_way(bed)
    proposed = bed.decisions.plan.folds["chain"].proposed
    assert proposed is not None
    other = CutOver(proposed, PLACES, bed.log, CODEC, Decisions(bed.log, CODEC), lambda: bed.log.now)
    assert await other.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(CutOverRefused, match="the cut-over to version 2 was given up by another command"):
            await running


async def test_a_proposal_that_another_command_decided() -> None:
    """It is done all the same: both wait for the switches."""
    bed = await bed_of_three()
    task = await bed.up()
    one = command(bed, Asked("chain", 2, by="ann"))
    running = asyncio.create_task(session.carry_out(one, 60.0, lambda _: None))
    await under_way(bed)
    other = command(bed, Asked("chain", 2, by="bob"))
    await other.begin()
    assert (one.joined, other.joined) == (False, True)
    await other.decide()
    working = asyncio.create_task(work(bed, task))
    async with asyncio.timeout(10):
        await running
    working.cancel()
    assert one.record.phase == "decided"
    assert [fact.version for fact in facts(bed)] == [2]


async def under_way(bed: Partition) -> None:
    """A command has written its proposal."""
    while bed.decisions.plan.folds["chain"].proposed is None:
        await asyncio.sleep(0)
        await bed.decisions.refresh()


async def test_two_commands_at_once() -> None:
    """Both found nothing under way; the one whose record stands first goes on, the other is told."""
    bed = await bed_of_three()
    one, other = command(bed, Asked("chain", 2, by="ann")), command(bed, Asked("chain", 3, by="bob"))
    await one.begin()
    with pytest.raises(CutOverRefused, match="somebody else was faster: to version 2, proposed by ann"):
        await other.begin()


async def test_a_command_that_died_is_taken_up() -> None:
    """A proposal stays open and changes nothing; the same command again brings it to its end."""
    bed = await bed_of_three()
    task = await bed.up()
    await command(bed, Asked("chain", 2)).begin()
    await bed.decisions.refresh()
    put(bed, 10)
    await bed.drain(task, 3)
    assert facts(bed) == []
    again = command(bed, Asked("chain", 2))
    await again.begin()
    await again.look()
    assert again.unready == []
    await again.decide()
    await bed.decisions.refresh()
    put(bed, 10)
    await bed.drain(task, 3)
    await again.look()
    assert again.unswitched == []
    check(bed, task)


async def test_a_decision_comes_too_late() -> None:
    """What was given up meanwhile is not decided, and what was decided cannot be given up."""
    bed = await bed_of_three()
    one, other = command(bed, Asked("chain", 2)), command(bed, Asked("chain", 2))
    await one.begin()
    other.record = one.record
    assert await other.cancel()
    with pytest.raises(CutOverRefused, match="was given up by another command"):
        await one.decide()
    await bed.decisions.refresh()
    three = command(bed, Asked("chain", 2))
    await three.begin()
    await three.decide()
    assert not await three.cancel()


async def work(bed: Partition, task: PartitionTask, *, decisions: bool = True) -> None:
    """A worker that goes on until it is cancelled."""
    while True:
        if decisions:
            await bed.decisions.refresh()
        put(bed, 1)
        await bed.drain(task)
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the log without pauses."""
    monkeypatch.setattr(session, "_LOOK_S", 0.0)


async def test_carried_out() -> None:
    """From the proposal to the last partition's switch, with a word after each look."""
    bed = await bed_of_three()
    task = await bed.up()
    working = asyncio.create_task(work(bed, task))
    seen: list[tuple[str, int, int]] = []
    wanted_ = command(bed, Asked("chain", 2))
    await session.carry_out(
        wanted_, 60.0, lambda c: seen.append((c.record.phase, len(c.ready), len(c.switched)))
    )
    working.cancel()
    assert seen[0][0] == "proposed"
    assert seen[-1] == ("decided", 1, 1)
    assert facts(bed) == [wanted_.switched[SIGNALS, 0]]
    check(bed, task)


async def test_nobody_is_there() -> None:
    """Without workers nothing gets ready: in time the proposal is given up, and the partitions are named."""
    bed = await bed_of_three()
    with pytest.raises(NotAllReady, match=r"not ready for version 2 within 0 s: signals/0; .* was given up"):
        await session.carry_out(command(bed, Asked("chain", 2)), 0.0, lambda _: None)
    await bed.decisions.refresh()
    standing = bed.decisions.plan.folds["chain"]
    assert (standing.version, standing.proposed) == (1, None)


async def test_a_version_that_cannot_take_over() -> None:
    """The command does not wait for a version that raises on everything: it says where, on what, and gives up."""

    class Broken(Chain3):
        def on_event(self, state: Any, event: Event, at: float) -> Iterable[Output]:
            raise ValueError("broken")

    bed = await began(lambda: [Chain(), Broken()])
    task = await bed.up()
    put(bed, 20)
    await bed.drain(task)
    working = asyncio.create_task(work(bed, task))
    with pytest.raises(
        NotAllReady,
        match=r"version 3 cannot take over: in signals/0 it raises on more than 10 records.*broken.*was given up",
    ):
        await session.carry_out(command(bed, Asked("chain", refold=True)), 60.0, lambda _: None)
    working.cancel()
    await bed.decisions.refresh()
    assert bed.decisions.plan.folds["chain"].proposed is None


async def test_the_command_is_interrupted() -> None:
    """Ctrl-C while workers get ready gives the proposal up."""
    bed = await bed_of_three()
    running = asyncio.create_task(session.carry_out(command(bed, Asked("chain", 2)), 60.0, lambda _: None))
    for _ in range(50):
        await asyncio.sleep(0)
    await bed.decisions.refresh()
    assert bed.decisions.plan.folds["chain"].proposed is not None
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await bed.decisions.refresh()
    assert bed.decisions.plan.folds["chain"].proposed is None


async def test_who_joined_gives_nothing_up() -> None:
    """Neither in time nor by Ctrl-C: the proposal is the other command's, and that is said."""
    bed = await bed_of_three()
    await command(bed, Asked("chain", 2, by="ann")).begin()
    await bed.decisions.refresh()
    joining = command(bed, Asked("chain", 2, by="bob"))
    with pytest.raises(NotAllReady, match="signals/0; the cut-over of ann still stands"):
        await session.carry_out(joining, 0.0, lambda _: None)
    running = asyncio.create_task(
        session.carry_out(command(bed, Asked("chain", 2, by="bob")), 60.0, lambda _: None)
    )
    for _ in range(50):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await bed.decisions.refresh()
    assert bed.decisions.plan.folds["chain"].proposed == joining.record


async def test_kafka_is_away_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be given up stands, and the command says so and what to do."""
    bed = await bed_of_three()
    running = asyncio.create_task(session.carry_out(command(bed, Asked("chain", 2)), 60.0, lambda _: None))
    await under_way(bed)

    async def away(*about: Any) -> Any:
        raise LogUnavailable("reading: away")

    with monkeypatch.context() as patched:
        patched.setattr(bed.log, "bounds", away)
        patched.setattr(bed.log, "post", away)
        with pytest.raises(StillProposed, match=r"still stands as proposed.*away") as still:
            await running
    assert "headwater folds cut-over chain --cancel" in still.value.hint
    await bed.decisions.refresh()
    assert bed.decisions.plan.folds["chain"].proposed is not None


async def test_kafka_is_away_when_it_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided at once is not spoken of as a proposal, and is not given up."""
    bed = await bed_of_three()
    await bed.up()
    before = len(bed.log.records("headwater.folds", 0))
    bounds = bed.log.bounds

    async def away(topic: str, partition: int) -> Any:
        if topic == VERSIONS:
            raise LogUnavailable("reading: away")
        return await bounds(topic, partition)

    with monkeypatch.context() as patched:
        patched.setattr(bed.log, "bounds", away)
        with pytest.raises(LogUnavailable):
            await session.carry_out(command(bed, Asked("chain", 2, at_once=True)), 60.0, lambda _: None)
    await bed.decisions.refresh()
    assert bed.decisions.plan.folds["chain"].version == 2
    assert len(bed.log.records("headwater.folds", 0)) == before + 1


async def test_workers_that_do_not_hear_of_it() -> None:
    """What is decided and not switched yet is named; it is done when the workers hear of it."""
    bed = await bed_of_three()
    task = await bed.up()
    at_once = command(bed, Asked("chain", 2, at_once=True))
    with pytest.raises(NotAllSwitched, match=r"version 2 is decided, and not yet in force in signals/0"):
        await session.carry_out(at_once, 0.0, lambda _: None)
    await bed.decisions.refresh()
    await task.idle()
    await task.idle()
    assert [f.version for f in facts(bed)] == [2]


@pytest.mark.parametrize("at_once", [False, True])
async def test_back_from_half_the_way(at_once: bool) -> None:
    """A decision that did not reach a partition is taken back: it has the version already, and says so."""
    bed = await bed_of_three()
    put(bed, 5)
    await bed.drain(await bed.up())
    every, bed.folds = bed.folds, lambda: [Chain(), Echo()]
    task = await bed.up()
    with pytest.raises(NotAllSwitched):
        await session.carry_out(wanted_at_once(bed, every), 0.0, lambda _: None)
    await bed.decisions.refresh()
    await task.idle()
    assert facts(bed) == []
    working = asyncio.create_task(work(bed, task))
    back = command(bed, Asked("chain", 1, at_once=at_once))
    await session.carry_out(back, 5.0, lambda _: None)
    working.cancel()
    assert (back.switched, facts(bed)) == ({(SIGNALS, 0): None}, [])
    await bed.decisions.refresh()
    assert bed.decisions.plan.folds["chain"].version == 1


def wanted_at_once(bed: Partition, folds: Any) -> CutOver:
    """To version 2, given where that is installed."""
    record = proposal(Asked("chain", 2, at_once=True), by_name(folds()), bed.decisions)
    return CutOver(record, PLACES, bed.log, CODEC, Decisions(bed.log, CODEC), lambda: bed.log.now)


async def test_at_once_while_nobody_is_up() -> None:
    """Workers that do not start under the version in force cannot be waited for: it is decided, and that is all."""
    bed = await bed_of_three()
    put(bed, 5)
    await bed.drain(await bed.up())

    async def nobody() -> bool:
        return False

    at_once = command(bed, Asked("chain", 2, at_once=True))
    async with asyncio.timeout(10):
        await session.carry_out(at_once, 60.0, lambda _: None, nobody)
    assert at_once.unswitched == PLACES
    await (await bed.up()).idle()
    assert [fact.version for fact in facts(bed)] == [2]


async def test_the_list() -> None:
    """Versions installed, the one in force, since where each partition has it, and who is behind."""
    bed = await bed_of_three()

    async def listed() -> Any:
        found = await listing(bed.log, CODEC, Decisions(bed.log, CODEC), by_name(bed.folds()), {SIGNALS: 1})
        return {fold.name: fold for fold in found}

    task = await bed.up()
    put(bed, 5)
    await bed.drain(task)
    chain = (await listed())["chain"]
    assert (chain.installed, chain.standing.version, chain.behind) == ((1, 2, 3), 1, [])
    assert chain.places == {(SIGNALS, 0): (1, None)}
    decided = command(bed, Asked("chain", 2, at_once=True))
    await decided.begin()
    assert (await listed())["chain"].behind == [(SIGNALS, 0)]
    await bed.decisions.refresh()
    await task.idle()
    await task.idle()
    chain = (await listed())["chain"]
    assert chain.behind == []
    assert chain.places[SIGNALS, 0].version == 2
    assert chain.places[SIGNALS, 0].switch.position == 5
    bed.folds = lambda: [Chain(), Chain2(), Silence()]
    silence = (await listed())["silence"]
    assert (silence.standing, silence.places) == (None, {})
