"""Replaying dead letters, on a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from processors.fold import Fold, Output
from schemas import events as e
from schemas import topics
from schemas.codec import Codec
from schemas.envelope import Envelope, to_headers
from schemas.registry import Registry
from streams import dead_letters
from streams.dead_letters import NoSuchDeadLetter, NotReplayable, replay
from streams.folding.task import PartitionTask
from streams.producing.producer import Position
from streams.settings import Settings
from tests.streams.folds import CURSED, UNLUCKY, Chain, Echo, Links, Silence
from tests.streams.harness import CODEC, SIGNALS, TICKS, signal
from tests.streams.rigs import OUT, KafkaRig, everything, kafka_rig

NOW = 1_700_000_000.0


class Mended(Chain):
    """Chain, after its fault was mended."""

    def on_event(self, state: Links, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        assert event.value is not None
        return super().on_event(state, event.model_copy(update={"value": event.value + 100}), at)


@pytest.fixture
async def rig(broker: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KafkaRig]:
    """A namespace of its own, in which the folds under test are the catalog."""
    monkeypatch.setattr(dead_letters, "folds", lambda: (Chain(), Silence(), Echo()))
    async with kafka_rig(broker) as kafka:
        yield kafka


async def put(rig: KafkaRig, value: float, id_: str) -> None:
    """A signal of component c."""
    envelope = Envelope(id=id_, source="t", type="Signal", time=NOW)
    await rig.append(SIGNALS, b"default/c", CODEC.encode(signal(value)), to_headers(envelope))


async def fold(
    rig: KafkaRig, chain: Fold[Any] | None = None, codec: Codec = CODEC, later_s: float = 0.0
) -> int:
    """Fold all there is, with what is due `later_s` later; returns how many signals the chain has taken."""
    task = PartitionTask(
        topics.SIGNALS,
        0,
        lambda: [chain or Chain(), Silence(), Echo()],
        rig.log,
        codec=codec,
        secret=b"s",
        now=lambda: NOW + later_s,
    )
    await task.assign()
    assert task.engine is not None
    _, end = await rig.log.bounds(SIGNALS, 0)
    records = [r async for batch in rig.log.read(SIGNALS, 0, task.position, end) for r in batch]
    await task.handle(records)
    await task.idle()
    await task.idle()
    count: int = task.engine.slots[0].states["default/c"].count
    await task.discard()
    return count


async def echoes(rig: KafkaRig) -> list[float]:
    """What Echo, which reads all that is for everyone, has said."""
    decoded = [CODEC.decode(r.value) for p in range(3) for r in await everything(rig.log, OUT, p)]
    return [d.value for d in decoded if isinstance(d, e.AnomalyDetected) and d.detector == "echo"]


async def test_a_letter_goes_back_to_its_fold(rig: KafkaRig) -> None:
    """A mended fold takes the replayed record, once; the folds that had taken it are not given it again."""
    await put(rig, 20, "a")
    await put(rig, UNLUCKY, "b")
    assert await fold(rig) == 1
    assert await replay(rig.settings, SIGNALS, 0, 1) == [Position(SIGNALS, 0, 2)]
    assert await fold(rig, Mended()) == 2
    assert await echoes(rig) == [20, UNLUCKY]
    *_, again = await everything(rig.log, SIGNALS)
    headers = dict(again.headers)
    assert (again.key, headers["ce_id"], headers["ce_replayof"]) == (b"default/c", b"b", b"chain")


async def test_a_letter_that_fails_again_is_a_letter_again(rig: KafkaRig) -> None:
    """Replayed to a fold that was not mended it is a letter of its new position, which can be replayed in turn."""
    await put(rig, 20, "a")
    await put(rig, UNLUCKY, "b")
    await fold(rig)
    await replay(rig.settings, SIGNALS, 0, 1, "chain")
    await fold(rig)
    assert await replay(rig.settings, SIGNALS, 0, 2, "chain") == [Position(SIGNALS, 0, 3)]
    *_, again = await everything(rig.log, SIGNALS)
    assert [name for name, _ in again.headers].count("ce_replayof") == 1
    assert await fold(rig, Mended()) == 2


async def test_what_nobody_could_read_goes_back_to_all(rig: KafkaRig) -> None:
    """A record whose schema was not known is replayed as it was once it is, and not before."""
    newer = Codec(Registry([r for r in CODEC.registry.by_id.values() if r.name != "Signal"]))
    await put(rig, 20, "a")
    with pytest.raises(KeyError):
        await fold(rig, codec=newer)  # every signal is a letter, so the chain has no state
    with pytest.raises(NoSuchDeadLetter, match="no dead letter of fold chain"):
        await replay(rig.settings, SIGNALS, 0, 0, "chain")
    assert await replay(rig.settings, SIGNALS, 0, 0) == [Position(SIGNALS, 0, 1)]
    assert await fold(rig) == 1
    assert await echoes(rig) == [20]
    await rig.append(SIGNALS, b"default/c", b"garbage")
    await fold(rig)
    with pytest.raises(NotReplayable, match="still cannot be decoded: wrong framing"):
        await replay(rig.settings, SIGNALS, 0, 2)


async def test_what_cannot_be_replayed(rig: KafkaRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing there, another fold's letter, a wake, a fold that is gone: each has an answer, and nothing is written."""
    await put(rig, UNLUCKY, "a")
    await put(rig, CURSED, "b")
    await fold(rig, later_s=100)
    _, end = await rig.log.bounds(SIGNALS, 0)
    for where, error, said in [
        ((SIGNALS, 0, 7), NoSuchDeadLetter, "v1/dead-letters"),
        ((SIGNALS, 0, 0, "silence"), NoSuchDeadLetter, "there is one of: chain"),
        ((TICKS, 0, 2), NotReplayable, "woken"),
    ]:
        with pytest.raises(error, match=said):
            await replay(rig.settings, *where)  # type: ignore[arg-type]
    monkeypatch.setattr(dead_letters, "folds", lambda: (Echo(),))
    with pytest.raises(NotReplayable, match="no fold or reactor chain reads signals here"):
        await replay(rig.settings, SIGNALS, 0, 0)
    assert await rig.log.bounds(SIGNALS, 0) == (0, end)
