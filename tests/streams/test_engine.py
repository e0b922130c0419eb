"""The engine alone: records in, records out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from processors.fold import Fold, Output, Wake
from schemas import events as e
from schemas import topics
from schemas.codec import Codec, Record
from schemas.envelope import Envelope, Headers, from_headers, to_headers
from streams.folding.engine import CLAMP_S, Engine, Poison
from streams.folding.snapshots import Skip
from streams.partitions.log import Send
from tests.streams.folds import CURSED, TOO_LOUD, UNLUCKY, Chain, Echo, Links, Loud, Silence, found
from tests.streams.harness import CODEC, signal

NOW = 1_700_000_000.0


def record(
    offset: int,
    value: float = 1.0,
    component: str = "c",
    *,
    id: str | None = None,
    time: float = NOW,
    project: str = "p",
    extra: Headers = (),
    **attributes: Any,
) -> Record:
    """A signal at an offset, appended at NOW."""
    envelope = Envelope(
        id=id or f"e{offset}", source="test", type="Signal", time=time, project=project, **attributes
    )
    return Record(
        "signals",
        0,
        offset,
        NOW,
        f"{project}/{component}".encode(),
        CODEC.encode(signal(value, component)),
        [*to_headers(envelope), *extra],
    )


def engine(*folds: Fold[Any], topic: topics.Topic = topics.SIGNALS, codec: Codec = CODEC) -> Engine:
    """An engine of partition 0."""
    return Engine(topic, 0, folds, codec)


def envelope_of(send: Send) -> Envelope:
    """The envelope of an output."""
    return from_headers(send.headers, topic=send.topic, partition=0, offset=0, timestamp=0.0)


def values_of(sends: list[Send]) -> list[float]:
    """The `value` of each output."""
    return [CODEC.decode(send.value).value for send in sends]  # type: ignore[attr-defined]


class Odd(Fold[Links]):
    """Yields whatever it was made with."""

    name = "odd"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = (e.AnomalyDetected,)
    state = Links

    def __init__(self, *yields: Any, error: Exception | None = None) -> None:
        self.yields = yields
        self.error = error

    def initial(self, key: str) -> Links:
        return Links(key)

    def on_event(self, state: Links, event: e.Event, at: float) -> Iterable[Output]:
        yield from self.yields
        if self.error:
            raise self.error

    def on_wake(self, state: Links, at: float) -> Iterable[Output]:
        yield found("odd", "odd", at, 0)


class Timer(Odd):
    """The same without state."""

    name = "timer"
    state = None  # type: ignore[assignment]  # it hides the base class's


def test_same_input_same_output() -> None:
    """Two engines given the same records and ticks give the same bytes under the same ids."""

    def outputs() -> list[Send]:
        one = engine(Chain(), Silence(), Echo())
        out = [s for i in range(20) for s in one.process([record(i, i + 20, f"c{i % 3}")])]
        return out + one.tick(NOW + 60) + one.tick(NOW + 200)

    first = outputs()
    assert len(first) > 20
    assert first == outputs()
    assert len({envelope_of(s).id for s in first}) == len(first)


def test_an_output_says_where_it_comes_from() -> None:
    """An output has its cause's project, clock, trace and correlation, and names it as its cause."""
    cause = record(
        0, correlation_id="run-7", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", clock="replay"
    )
    (send,) = engine(Echo()).process([cause])
    made = envelope_of(send)
    assert (made.project, made.correlation_id, made.causation_id, made.clock) == (
        "p",
        "run-7",
        "e0",
        "replay",
    )
    assert made.traceparent == "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    assert (made.source, made.time, send.key, made.subject) == ("headwater/folds/echo", NOW, b"p/c", "c")


def test_another_version_gives_other_ids() -> None:
    """A fold's new version is another author: its outputs are not taken for those of the old one."""

    class Newer(Echo):
        version = 2

    (old,), (new,) = engine(Echo()).process([record(0)]), engine(Newer()).process([record(0)])
    assert old.value == new.value
    assert envelope_of(old).id != envelope_of(new).id


def test_a_live_event_from_the_future_is_set_back() -> None:
    """A live event an hour ahead counts as the broker's time plus 300 s, and the clamp is counted."""
    one = engine(Echo())
    (send,) = one.process([record(0, time=NOW + 3600)])
    assert envelope_of(send).time == NOW + CLAMP_S == NOW + 300
    assert one.clamped == 1


def test_replayed_time_is_never_set_back() -> None:
    """Data of a replay project may lie in any time, also ahead of the broker's."""
    one = engine(Echo())
    (send,) = one.process([record(0, time=NOW + 3600, clock="replay")])
    assert envelope_of(send).time == NOW + 3600
    assert one.clamped == 0


def test_duplicates_are_dropped_once_for_all_folds() -> None:
    """The same (project, source, id) again reaches no fold; another project or source with that id does."""
    one = engine(Echo(), Chain())
    given = [
        record(0, id="a"),
        record(1, id="a"),
        record(2, id="a", project="q"),
        record(3, id="b"),
    ]
    assert [len(one.process([r])) for r in given] == [1, 0, 1, 2]
    assert one.duplicates == 1


def test_raw_topics_keep_duplicates() -> None:
    """Intake holds no key state: who reads the keyed topic drops duplicates."""
    one = engine(Echo(), topic=topics.METRICS)
    assert [len(one.process([record(i, id="a")])) for i in range(2)] == [1, 1]


def test_a_replayed_dead_letter_is_for_one_fold() -> None:
    """A record with ce_replayof reaches that fold alone, although it stood there before."""
    one = engine(Echo(), Chain())
    one.process([record(0, id="a")])
    again = one.process([record(1, 5, id="a", replay_of="chain")])
    assert [envelope_of(s).source for s in again] == ["headwater/folds/chain"]
    assert one.slots[0].stats.events == 1
    assert one.slots[1].stats.events == 2
    assert one.process([record(2, id="a", replay_of="no-such-fold")]) == []


BAD: dict[str, Record] = {
    "no value": Record("signals", 0, 0, NOW, b"p/c", None, []),
    "no framing": Record("signals", 0, 0, NOW, b"p/c", b"{}", []),
    "unknown schema id": Record("signals", 0, 0, NOW, b"p/c", b"\x00\x00\x00\xff\xffxyz", []),
    "body cut off": Record("signals", 0, 0, NOW, b"p/c", CODEC.encode(signal(1))[:-3], []),
    "body with more after it": Record("signals", 0, 0, NOW, b"p/c", CODEC.encode(signal(1)) + b"x", []),
    "key not UTF-8": Record("signals", 0, 0, NOW, b"\xff\xfe", CODEC.encode(signal(1)), []),
    "another type": record(0, extra=[("ce_type", b"MetricReported")]),
    "bad time": record(0, extra=[("ce_time", b"yesterday")]),
    "bad clock": record(0, extra=[("ce_clock", b"lunar")]),
    "header not UTF-8": record(0, extra=[("ce_source", b"\xff")]),
    "project not UTF-8": record(0, extra=[("ce_project", b"\xff")]),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_what_cannot_be_decoded_is_a_dead_letter(bad: Record) -> None:
    """An undecodable record becomes a letter with all its bytes, reaches no fold, and the next one does."""
    one = engine(Echo())
    assert one.process([bad]) == []
    ((skip, send),) = one.letters
    letter = CODEC.decode(send.value)
    assert isinstance(letter, e.DeadLetter)
    assert (letter.fold, letter.offset, letter.key, letter.value) == (None, 0, bad.key, bad.value)
    assert skip == Skip("", 0)
    assert letter.error_message
    assert one.position == 1
    assert len(one.process([record(1)])) == 1


def test_a_header_may_be_null() -> None:
    """Kafka's headers may have no value: whether that is a letter or an event, the partition goes on."""
    one = engine(Echo())
    null = record(0, extra=[("ce_clock", None), ("x", None)])  # type: ignore[list-item]  # the fault
    assert len(one.process([null])) + len(one.letters) == 1


def test_what_could_not_be_decoded_stays_skipped() -> None:
    """A record noted as undecodable is not folded later, when its schema is known, nor is its id remembered."""
    one = engine(Echo())
    one.skips[Skip("", 0)] = None
    one.skips[Skip("", 1)] = None
    assert one.process([record(0, id="a")]) == []
    one.remember(record(1, id="b"))
    assert len(one.process([record(2, id="a")])) == 1
    assert len(one.process([record(3, id="b")])) == 1
    assert one.letters == []


def test_outputs_are_kept_back_until_the_fold_has_returned() -> None:
    """What a fold yielded before it raised is never seen."""
    with pytest.raises(Poison) as caught:
        engine(Odd(found("c", "odd", 1, 1), error=ValueError("no"))).process([record(0)])
    assert caught.value.skip == Skip("odd", 0)


def test_a_skipped_record_reaches_the_other_folds() -> None:
    """With the skip of one fold a record is that fold's dead letter, and the others' event."""
    one = engine(Odd(error=ValueError("no")), Echo())
    one.skips[Skip("odd", 0)] = ValueError("no")
    assert [envelope_of(s).source for s in one.process([record(0)])] == ["headwater/folds/echo"]
    ((_, send),) = one.letters
    letter = CODEC.decode(send.value)
    assert isinstance(letter, e.DeadLetter)
    assert (letter.fold, letter.error_type, letter.error_message) == ("odd", "ValueError", "no")
    assert dict(letter.headers)["ce_id"] == b"e0"
    assert envelope_of(send).project == "p"


@pytest.mark.parametrize(
    "fold",
    [
        Odd(None),
        Odd("text"),
        Odd(signal(1)),
        Odd(Wake(float("nan"))),
        Odd(Wake("soon")),  # type: ignore[arg-type]  # that is the fault
    ],
    ids=["none", "text", "undeclared event", "wake at NaN", "wake at text"],
)
def test_what_a_fold_may_not_yield(fold: Fold[Any]) -> None:
    """A fold that yields what it must not has raised: the record is poison, not the process."""
    with pytest.raises(Poison):
        engine(fold).process([record(0)])


def test_an_output_beyond_the_limit_is_poison() -> None:
    """A value above the record limit, or a key and headers that the broker would refuse, is the fold's error."""
    with pytest.raises(Poison, match="RecordTooLarge"):
        engine(Loud()).process([record(0, TOO_LOUD)])
    one = engine(Echo())
    assert one.process([record(0, correlation_id="x" * 20_000, id="y" * 20_000)]) == []
    assert len(one.letters) == 1


def test_a_fold_without_state_spoils_nothing() -> None:
    """Where a fold that keeps no state raises, the record is its dead letter at once: nothing is built anew."""
    one = engine(Timer(found("c", "timer", 1, 1), error=ValueError("no")), Timer(Wake(1.0)), Echo())
    assert [envelope_of(s).source for s in one.process([record(0)])] == ["headwater/folds/echo"]
    letters = [CODEC.decode(send.value) for _, send in one.letters]
    assert [x.error_type for x in letters if isinstance(x, e.DeadLetter)] == ["ValueError", "AssertionError"]
    assert [skip for skip, _ in one.letters] == [Skip("timer", 0)] * 2


class Unspeakable(Exception):
    """Its message cannot be read."""

    def __str__(self) -> str:
        raise KeyError("no message")


@pytest.mark.parametrize(
    "error", [ValueError("half a pair: \ud800"), Unspeakable(), ValueError("x" * 10_000)]
)
def test_any_error_can_be_written_down(error: Exception) -> None:
    """A dead letter is made whatever the fold's error says."""
    one = engine(Odd())
    one.skips[Skip("odd", 0)] = error
    one.process([record(0)])
    assert len(one.letters) == 1


def test_wakes_come_in_their_own_order() -> None:
    """Wakes due at once are given in the order of their times, whatever the order they were asked in."""
    one = engine(Silence())
    for offset, (component, time) in enumerate([("b", NOW), ("a", NOW + 2), ("c", NOW + 1)]):
        one.process([record(offset, component=component, time=time)])
    assert one.next_wake() == NOW + 60
    assert [s.key for s in one.tick(NOW + 61.5)] == [b"p/b", b"p/c"]
    assert one.next_wake() == NOW + 62


def test_the_last_wake_counts() -> None:
    """A wake asked anew replaces the one before, earlier or later."""
    one = engine(Silence())
    one.process([record(0)])
    one.process([record(1, time=NOW + 30)])
    assert one.tick(NOW + 60) == []
    assert len(one.tick(NOW + 90)) == 1


def test_a_wake_may_be_given_as_any_number() -> None:
    """An int and the equal float are one time: restored from a snapshot it is a float, and ids must not change."""
    outputs = []
    for at in (1_800_000_000, 1_800_000_000.0):
        one = engine(Odd(Wake(at)))
        one.process([record(0)])
        outputs.append(one.tick(1_900_000_000.0))
    assert outputs[0] == outputs[1] != []


def test_a_replayed_project_has_a_clock_of_its_own() -> None:
    """Data moves a replay project's clock, ticks do not; its wakes come before the event that brought the time."""
    one = engine(Silence(), Chain())
    one.process([record(0, clock="replay", time=1000.0)])
    assert one.tick(NOW) == []
    assert one.process([record(1, component="d", project="q", clock="replay", time=5000.0)]) == []
    assert one.process([record(2, component="d", clock="replay", time=1059.0)]) == []
    late = one.process([record(3, component="d", clock="replay", time=1060.0)])
    assert [envelope_of(s).source[-7:] for s in late] == ["silence", "s/chain"]
    assert (envelope_of(late[0]).clock, envelope_of(late[0]).project) == ("replay", "p")
    assert one.process([record(4, component="d", clock="replay", time=10.0)]) == []


def test_a_cursed_wake_is_the_folds_and_the_keys() -> None:
    """A fold that raises when woken is skipped for that key and time; with the skip it is a dead letter."""
    one = engine(Silence())
    one.process([record(0, CURSED)])
    with pytest.raises(Poison) as caught:
        one.tick(NOW + 60)
    again = engine(Silence())
    again.skips[caught.value.skip] = caught.value.cause
    again.process([record(0, CURSED)])
    again.process([record(1, 1, "d")])
    assert [s.key for s in again.tick(NOW + 60)] == [b"p/d"]
    ((_, send),) = again.letters
    letter = CODEC.decode(send.value)
    assert isinstance(letter, e.DeadLetter)
    assert (letter.topic, letter.fold, letter.key, letter.value) == ("signals.ticks", "silence", b"p/c", None)


def test_a_fold_that_raises_leaves_nothing_behind() -> None:
    """Chain raises after it changed its state: the engine is built anew, with the skip, from the same records."""
    given = [record(i, v) for i, v in enumerate([1, UNLUCKY, 2])]
    spoilt = engine(Chain())
    spoilt.process([given[0]])
    with pytest.raises(Poison) as caught:
        spoilt.process([given[1]])
    anew, without = engine(Chain()), engine(Chain())
    anew.skips[caught.value.skip] = caught.value.cause
    out = [s for r in given for s in anew.process([r])]
    assert out == [s for r in (given[0], given[2]) for s in without.process([r])]
    assert anew.slots[0].states == without.slots[0].states
