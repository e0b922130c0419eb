"""One partition with a reactor: what is written before and after a call, and what a death leaves behind."""

from __future__ import annotations

import asyncio

import pytest

from schemas import events as e
from schemas import topics
from schemas.errors import HeadwaterError
from streams.partitions.log import Fenced
from streams.reactors import ledger as limits
from streams.reactors.reactor import Done, NotActed, NotWanted, OutcomeUnknown
from streams.simulation import Crash
from tests.streams.reactors.acting import ANOMALIES, CODEC, LEDGER, Actor, Rig


async def test_an_intent_stands_in_the_log_before_the_call_and_its_outcome_after_it() -> None:
    """A finding leads to one call for each target, each intended, made and completed, with its cause."""
    rig = Rig()
    rig.put("a b!")
    task = await rig.up()
    await rig.drain(task)
    assert rig.said() == [
        ("intended", "a", 1),
        ("intended", "b", 1),
        ("succeeded", "a", 1),
        ("succeeded", "b", 1),
    ]
    assert rig.ledger() == {"a": "succeeded", "b": "succeeded"}
    assert sorted(rig.reactor.acted.values()) == [1, 1]
    assert rig.log.positions[ANOMALIES, 0] == 1
    for record in rig.log.records("effects", 0):
        envelope = CODEC.decode_record(record).envelope
        assert (envelope.project, envelope.correlation_id, envelope.causation_id) == ("p", "run-1", "f1")
    await task.discard()


async def test_the_call_is_made_after_its_intent_was_committed() -> None:
    """A death at the commit of the intent leaves no call, and the successor makes it."""
    rig = Rig()
    rig.put("a")
    task = await rig.up()
    rig.crash_at = "commit.offsets"
    with pytest.raises(Crash):
        await rig.drain(task)
    assert not rig.reactor.calls
    successor = await rig.up()
    await rig.drain(successor)
    assert rig.ledger() == {"a": "succeeded"}
    assert rig.reactor.acted.total() == 1


@pytest.mark.parametrize("step", ["effects.intended", "effects.acted"])
@pytest.mark.parametrize("target", ["once", "again!"])
async def test_a_death_between_intent_and_outcome(step: str, target: str) -> None:
    """Nobody knows whether it happened: an idempotent effect is repeated, another one is reported, never repeated."""
    rig = Rig()
    rig.put(target)
    dying = Actor()
    task = await rig.up(dying)
    rig.crash_at = step
    if step == "effects.intended":
        with pytest.raises(Crash):
            await rig.drain(task)
    else:
        await task.handle(rig.log.records(ANOMALIES, 0))
        (call,) = (call for _, call in task._calls.values())
        with pytest.raises(Crash):
            await call
        assert dying.acted.total() == 1
    successor = await rig.up()
    await rig.drain(successor)
    if target == "again!":
        await rig.turns(successor, 20)
        assert rig.ledger() == {"again": "succeeded"}
        assert rig.reactor.acted.total() == 1
        assert rig.reactor.calls[0].attempt == 2
        assert ("deferred", "again", 1) in rig.said()
        assert not rig.letters()
    else:
        assert rig.ledger() == {"once": "unknown"}
        assert not rig.reactor.calls
        (letter,) = rig.letters()
        assert (letter.fold, letter.topic, letter.offset) == ("actor", ANOMALIES, 0)


async def test_the_key_never_changes() -> None:
    """However often an effect is tried, and by whom, its idempotency key is the same."""
    rig = Rig()
    rig.put("a!")
    rig.reactor.answers["a"] = [NotActed("busy"), OutcomeUnknown("lost")]
    task = await rig.up()
    await rig.drain(task)
    await rig.turns(task, 15)
    task = await rig.up()
    await rig.turns(task, 30)
    assert [call.attempt for call in rig.reactor.calls] == [1, 2, 3]
    assert len({call.id for call in rig.reactor.calls}) == 1
    assert rig.ledger() == {"a": "succeeded"}


async def test_an_event_delivered_again_acts_once() -> None:
    """The same event at another offset finds its effects in the ledger, also after a takeover."""
    rig = Rig()
    rig.put("a", id="same")
    task = await rig.up()
    await rig.drain(task)
    rig.put("a", id="same")
    await rig.drain(task)
    successor = await rig.up()
    rig.put("a", id="same")
    await rig.drain(successor)
    assert len(rig.reactor.calls) == 1


async def test_errors_say_how_it_goes_on() -> None:
    """Retriable: deferred with growing pauses, then failed; permanent: failed; unwanted: dropped, and no letter."""
    rig = Rig()
    rig.put("busy broken gone lost lost2!")
    rig.reactor.answers = {
        "busy": [NotActed("busy", after_s=100.0), NotActed("busy"), NotActed("busy")],
        "broken": [HeadwaterError("no such thing")],
        "gone": [NotWanted("removed")],
        "lost": [ConnectionResetError("lost")],
        "lost2": [ConnectionResetError("lost")],
    }
    task = await rig.up()
    await rig.drain(task)
    assert rig.ledger() == {
        "busy": "waiting", "broken": "failed", "gone": "dropped", "lost": "unknown", "lost2": "waiting"
    }  # fmt: skip
    deferred = [
        d for r in rig.log.records("effects", 0) if isinstance(d := CODEC.decode(r.value), e.EffectDeferred)
    ]
    until = {d.target: d.until - rig.log.now for d in deferred}
    assert until["busy"] == 100.0
    assert 8 <= until["lost2"] <= 12
    for _ in range(2):
        await rig.turns(task, 101)
    assert rig.ledger()["busy"] == "failed"
    assert rig.ledger()["lost2"] == "succeeded"
    assert {letter.error_type for letter in rig.letters()} == {
        "NotActed",
        "HeadwaterError",
        "ConnectionResetError",
    }
    assert len(rig.letters()) == 3


async def test_a_call_that_hangs_is_cut_off() -> None:
    """After its time is up a call counts as one whose outcome is unknown."""
    rig = Rig()
    rig.reactor.timeout_s = 0.05  # type: ignore[misc]  # this one's own
    rig.put("a")
    rig.reactor.answers["a"] = [asyncio.Event()]
    task = await rig.up()
    await rig.drain(task)
    assert rig.ledger() == {"a": "intended"}
    await asyncio.sleep(0.1)
    await rig.turns(task)
    assert rig.ledger() == {"a": "unknown"}


async def test_a_target_that_hangs_holds_up_nobody_else() -> None:
    """Calls of one target wait for a place of that target; others, and new records, go on."""
    rig = Rig()
    hang = asyncio.Event()
    rig.reactor.answers["slow"] = [hang] * 4
    for n in range(6):
        rig.put(f"slow quick{n}")
    task = await rig.up()
    await rig.drain(task)
    outcomes = rig.said()
    assert [f"quick{n}" for n in range(6)] == sorted(t for what, t, _ in outcomes if what == "succeeded")
    assert sum(what == "intended" and t == "slow" for what, t, _ in outcomes) == 4
    hang.set()
    await rig.turns(task)
    assert sum(what == "succeeded" and t == "slow" for what, t, _ in rig.said()) == 6


async def test_a_call_outlives_a_fault_of_the_log() -> None:
    """When the log was away for a moment, a call that is still under way is not made again."""
    rig = Rig()
    answer = asyncio.Event()
    rig.reactor.answers["a"] = [answer]
    rig.put("a")
    task = await rig.up()
    await rig.drain(task)
    await task.discard()
    await task.assign()
    await rig.turns(task)
    assert rig.ledger() == {"a": "intended"}
    answer.set()
    await rig.turns(task)
    assert rig.ledger() == {"a": "succeeded"}
    assert len(rig.reactor.calls) == 1


async def test_an_outcome_that_could_not_be_written_is_written_later() -> None:
    """A call that ended while the log was away is known to have ended, and is not made again."""
    rig = Rig()
    rig.put("a")
    task = await rig.up()
    await task.handle(rig.log.records(ANOMALIES, 0))
    await asyncio.gather(*(call for _, call in task._calls.values()))
    rig.crash_at = "commit.begun"
    with pytest.raises(Crash):
        await task.idle()
    await task.assign()
    await rig.turns(task)
    assert rig.ledger() == {"a": "succeeded"}
    assert len(rig.reactor.calls) == 1


async def test_who_was_replaced_neither_writes_nor_calls() -> None:
    """A worker whose partition another one has taken over cannot commit an intent, so it makes no call."""
    rig = Rig()
    zombie = await rig.up()
    other = Actor()
    owner = await rig.up(other)
    rig.put("a")
    with pytest.raises(Fenced):
        await rig.drain(zombie)
    assert not rig.reactor.calls
    await rig.drain(owner)
    assert len(other.calls) == 1


async def test_before_a_partition_goes_calls_may_end() -> None:
    """`suspend` waits a moment for calls under way, writes down what came of them and begins none."""
    rig = Rig()
    answer = asyncio.Event()
    rig.reactor.answers["a"] = [answer]
    rig.put("a")
    task = await rig.up()
    await rig.drain(task)
    asyncio.get_running_loop().call_later(0.05, answer.set)
    await task.suspend()
    assert rig.ledger() == {"a": "succeeded"}
    rig.put("b")
    await rig.drain(task)
    assert rig.ledger() == {"a": "succeeded", "b": "waiting"}
    await task.assign()
    await rig.turns(task)
    assert rig.ledger() == {"a": "succeeded", "b": "succeeded"}


async def test_a_dead_letter_that_is_replayed_acts_again_where_it_had_failed() -> None:
    """A replay makes a failed effect anew with all its attempts, leaves one that succeeded alone, ignores others'."""
    rig = Rig()
    rig.put("good bad", id="f")
    rig.reactor.answers["bad"] = [HeadwaterError("broken")]
    task = await rig.up()
    await rig.drain(task)
    assert rig.ledger() == {"good": "succeeded", "bad": "failed"}
    rig.put("good bad", id="f", replay_of="another")
    await rig.drain(task)
    assert len(rig.reactor.calls) == 2
    rig.put("good bad", id="f", replay_of="actor")
    await rig.drain(task)
    assert rig.ledger() == {"good": "succeeded", "bad": "succeeded"}
    assert [(c.effect.target, c.attempt) for c in rig.reactor.calls] == [("good", 1), ("bad", 1), ("bad", 2)]


async def test_what_cannot_be_read_or_planned_is_a_dead_letter_and_holds_up_nothing() -> None:
    """Garbage, and an event on which the reactor raises, are told apart; the next record is acted on."""
    rig = Rig()
    rig.log.append(ANOMALIES, b"p/x", b"garbage", (), 0)
    rig.put("raise")
    rig.put("a")
    task = await rig.up()
    await rig.drain(task)
    assert [(letter.offset, letter.fold) for letter in rig.letters()] == [(0, None), (1, "actor")]
    assert rig.ledger() == {"a": "succeeded"}


async def test_events_that_a_call_gave_are_written_with_its_outcome() -> None:
    """What came of a call is events, too; one that is not declared is left out, and the call stands."""
    rig = Rig()
    rig.put("a")
    told = e.ErrorReported(component="tool:a", error_type="Told", message="by the target")
    rig.reactor.answers["a"] = [Done("ok", (finding_in_disguise(), told))]
    task = await rig.up()
    await rig.drain(task)
    (record,) = rig.log.records(topics.ERRORS.name, 0)
    decoded = CODEC.decode_record(record)
    assert decoded.event == told
    assert decoded.envelope.causation_id == "f1"
    assert rig.ledger() == {"a": "succeeded"}


def finding_in_disguise() -> e.Event:
    """An event that Actor does not declare."""
    return e.MetricReported(component="c", name="n", value=1)


async def test_too_much_for_one_target_goes_to_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that never answers has so many unfinished effects and no more: memory is bounded, nothing is lost."""
    monkeypatch.setattr(limits, "MOST_WAITING", 10)
    rig = Rig()
    rig.reactor.answers["slow"] = [asyncio.Event() for _ in range(4)]
    for _ in range(15):
        rig.put("slow")
    task = await rig.up()
    await rig.drain(task)
    assert task.ledger is not None
    assert task.ledger.unfinished == 10
    assert len(rig.letters()) == 5
    assert {letter.error_type for letter in rig.letters()} == {"TooMuchWaits"}


async def test_what_is_done_is_forgotten_after_a_week() -> None:
    """The ledger does not grow for ever: old outcomes leave a tombstone."""
    rig = Rig()
    rig.put("a")
    task = await rig.up()
    await rig.drain(task)
    await rig.turns(task, limits.KEEP_S - 10)
    assert rig.ledger() == {"a": "succeeded"}
    await rig.turns(task, 20)
    assert rig.ledger() == {}
    assert rig.log.records(LEDGER, 0)[-1].value is None


async def test_a_first_start_at_the_end_of_the_log_is_recorded() -> None:
    """A reactor that begins at the end acts on nothing older, also when it is restarted before it met a record."""
    rig = Rig()
    rig.reactor.begins = "end"  # type: ignore[misc,assignment]  # this one's own
    rig.put("old")
    task = await rig.up()
    await task.idle()
    assert rig.log.positions[ANOMALIES, 0] == 1
    rig.put("new")
    successor = await rig.up()
    await rig.drain(successor)
    assert rig.ledger() == {"new": "succeeded"}


async def test_effects_of_replayed_data_are_of_its_time() -> None:
    """What is done for a project whose clock is its data's does not move that clock to today."""
    rig = Rig()
    rig.put("a", clock="replay", time=1_000_000.0)
    task = await rig.up()
    await rig.drain(task)
    envelopes = [CODEC.decode_record(r).envelope for r in rig.log.records("effects", 0)]
    assert {(x.time, x.clock) for x in envelopes} == {(1_000_000.0, "replay")}
