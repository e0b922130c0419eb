"""Reading the log from outside any group: committed, decoded, filtered."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka import AIOKafkaProducer

from schemas import events as e
from schemas.errors import BrokerUnavailable, ConfigurationError
from streams.kafka import client_options
from streams.producing.producer import Producer
from streams.settings import Settings
from streams.tail import Filters, Range, Shown, plain_key, tail
from tests.conftest import free_base_port

TOPIC = "agent.messages"
EVERYTHING = Range(follow=False)


async def collect(
    settings: Settings,
    filters: Filters | None = None,
    where: Range = EVERYTHING,
    names: tuple[str, ...] = (TOPIC,),
) -> list[Shown]:
    """What a tail that ends by itself shows."""
    return [s async for s in tail(settings, names, filters or Filters(), where, asyncio.Event())]


def message(text: str, agent: str = "a") -> e.MessagePosted:
    """A message."""
    return e.MessagePosted(agent_id=agent, role="agent", content=text)


async def test_everything_to_the_end_of_the_log(broker: Settings) -> None:
    """Without follow it shows every record of all partitions once, and ends."""
    async with Producer(broker) as producer:
        items = [producer.outgoing(message(str(n), f"tail-{n}"), project="tail-all") for n in range(50)]
        await producer.emit_many(items)
    shown = await collect(broker, Filters(project="tail-all"))
    assert sorted(s.decoded.envelope.id for s in shown if s.decoded) == sorted(i.envelope.id for i in items)
    assert {s.record.partition for s in shown} == {0, 1}


async def test_filters_admit_what_they_say(broker: Settings) -> None:
    """By type, key (with or without its project), project and correlation id, all together."""
    async with Producer(broker) as producer:
        wanted = producer.outgoing(message("w", "k1"), project="tail-f", correlation_id="run-1")
        others = [
            producer.outgoing(message("x", "k2"), project="tail-f", correlation_id="run-1"),
            producer.outgoing(message("y", "k1"), project="tail-f", correlation_id="run-2"),
            producer.outgoing(message("z", "k1"), project="tail-g", correlation_id="run-1"),
            producer.outgoing(
                e.RunStarted(run_id="run-1", agent_id="k1"), project="tail-f", correlation_id="run-1"
            ),
        ]
        await producer.emit_many([wanted, *others])
    for key in ("k1", "tail-f/k1"):
        filters = Filters(frozenset({"MessagePosted"}), key, "tail-f", "run-1")
        shown = await collect(broker, filters, names=(TOPIC, "agent.runs"))
        assert [s.decoded.envelope.id for s in shown if s.decoded] == [wanted.envelope.id]
        assert shown[0].decoded is not None
        assert plain_key(shown[0].decoded) == "k1"


async def test_since_begins_at_that_time_of_the_broker(broker: Settings) -> None:
    """Records that the broker took earlier are not shown."""
    async with Producer(broker) as producer:
        await producer.emit(message("early"), project="tail-since")
        await asyncio.sleep(0.3)
        now = time.time()
        await asyncio.sleep(0.1)
        late = producer.outgoing(message("late"), project="tail-since")
        await producer.emit_many([late])
    shown = await collect(broker, Filters(project="tail-since"), Range(since=now, follow=False))
    assert [s.decoded.envelope.id for s in shown if s.decoded] == [late.envelope.id]


async def test_following_shows_what_comes_until_told_to_stop(broker: Settings) -> None:
    """From the end of the log on: nothing old, each new event, and an end when asked."""
    async with Producer(broker) as producer:
        await producer.emit(message("old"), project="tail-follow")
        stop, seen = asyncio.Event(), []

        async def follow() -> None:
            async for shown in tail(broker, [TOPIC], Filters(project="tail-follow"), Range(), stop):
                assert shown.decoded is not None
                seen.append(shown.decoded.event)
                if len(seen) == 2:
                    stop.set()

        following = asyncio.create_task(follow())
        await asyncio.sleep(1.0)
        await producer.emit(message("new 1"), project="tail-follow")
        await producer.emit(message("new 2"), project="tail-follow")
        await asyncio.wait_for(following, 10)
    assert [m.content for m in seen if isinstance(m, e.MessagePosted)] == ["new 1", "new 2"]


async def test_uncommitted_records_are_not_shown(broker: Settings) -> None:
    """What an aborted transaction wrote is passed over, and does not keep the end from being reached."""
    producer = AIOKafkaProducer(**client_options(broker), transactional_id="tail-test")
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(TOPIC, b"x", key=b"tail-aborted/x", partition=0)
    await producer.abort_transaction()
    await producer.stop()
    shown = await asyncio.wait_for(collect(broker), 20)
    assert all(s.record.key != b"tail-aborted/x" for s in shown)


async def test_a_record_that_is_no_event_is_shown_with_its_reason(broker: Settings) -> None:
    """Wrong framing is told, and the reading goes on after it."""
    async with AIOKafkaProducer(**client_options(broker)) as raw:
        await raw.send_and_wait("agent.errors", b"{}", key=b"\xff", partition=0)
    async with Producer(broker) as producer:
        await producer.emit(e.ErrorReported(component="c", error_type="t"), project="tail-bad")
    shown = await collect(broker, Filters(project="tail-bad"), names=("agent.errors",))
    bad = [s for s in shown if s.decoded is None]
    assert any("wrong framing" in str(s.error) and s.record.key == b"\xff" for s in bad)
    assert [s.decoded.envelope.type for s in shown if s.decoded] == ["ErrorReported"]


async def test_unknown_names_are_refused_with_the_known_ones(broker: Settings) -> None:
    """A topic or type that is not declared is an error before anything is read."""
    with pytest.raises(ConfigurationError, match=r"no topic agent\.massages") as caught:
        await collect(broker, names=("agent.massages",))
    assert TOPIC in caught.value.hint
    with pytest.raises(ConfigurationError, match="no event type Message"):
        await collect(broker, Filters(frozenset({"Message"})))
    other = broker.model_copy(update={"namespace": "nowhere"})
    with pytest.raises(ConfigurationError, match=r"has no topic nowhere\.agent\.messages"):
        await collect(other)


async def test_no_broker_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers, the address is named after a bounded wait."""
    monkeypatch.setattr("streams.tail.COMMAND_S", 1.0)
    away = Settings(kafka=f"127.0.0.1:{free_base_port()}")
    with pytest.raises(BrokerUnavailable, match=str(away.kafka)):
        await collect(away)
