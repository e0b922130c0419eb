"""What an agent emits by the SDK, read back from a real broker."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import copy_context
from pathlib import Path

import pytest

from schemas import events as e
from schemas.codec import Decoded
from schemas.errors import BrokerUnavailable, HeadwaterError, InvalidEvent
from schemas.topics import RAW
from streams.producing.context import current
from streams.producing.producer import Position
from streams.sdk import Emitted, Headwater, SyncHeadwater
from streams.settings import Settings
from tests.conftest import free_base_port
from tests.streams.test_producer import ends, read

TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01")


@pytest.fixture
async def hw(broker: Settings) -> AsyncIterator[Headwater]:
    """A connected SDK whose events belong to project acme."""
    async with Headwater(broker, project="acme", deadline_s=10) as connected:
        yield connected


class Recorder:
    """What was emitted since it was made, over all raw topics, in the order of making."""

    topics = tuple(t.name for t in RAW)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._from: dict[str, dict[int, int]] = {}

    async def start(self) -> Recorder:
        """Note where the topics end."""
        self._from = {topic: await ends(self._settings, topic) for topic in self.topics}
        return self

    async def events(self) -> list[Decoded]:
        """Events by their ids: a UUIDv7 sorts by time, within a millisecond by chance."""
        places = []
        for topic, before in self._from.items():
            for partition, end in (await ends(self._settings, topic)).items():
                places += [Position(topic, partition, o) for o in range(before[partition], end)]
        return sorted(await read(self._settings, places), key=lambda d: d.envelope.time)


@pytest.fixture
async def recorder(broker: Settings) -> Recorder:
    """Records from now on."""
    return await Recorder(broker).start()


def names(found: Sequence[Decoded]) -> list[str]:
    """The types of events."""
    return [d.envelope.type for d in found]


def one(found: Sequence[Decoded], kind: type[e.Event]) -> Decoded:
    """The only event of this type."""
    (event,) = [d for d in found if isinstance(d.event, kind)]
    return event


async def test_emit_returns_where_the_event_is(broker: Settings, hw: Headwater) -> None:
    """Topic, partition and offset lead to the event; the id is its own; outside a run it has no cause."""
    event = e.AgentRetired(agent_id="sofia")
    emitted = await hw.emit(event, correlation_id="c")
    assert emitted[:3] == emitted.position
    (got,) = await read(broker, [emitted.position])
    assert (got.event, got.envelope.id, got.envelope.project) == (event, emitted.id, "acme")
    assert (got.envelope.correlation_id, got.envelope.causation_id) == ("c", None)
    assert got.envelope.traceparent is None


async def test_emit_many(broker: Settings, hw: Headwater) -> None:
    """Events and prepared events in one list, in its order; options hold for the plain ones."""
    prepared = hw.outgoing(e.AgentRetired(agent_id="a"), id="prepared")
    emitted = await hw.emit_many([e.AgentRetired(agent_id="b"), prepared], time=1.0, project="other")
    first, second = await read(broker, [m.position for m in emitted])
    assert (first.envelope.time, first.envelope.project) == (1.0, "other")
    assert (second.envelope.id, second.envelope.project) == ("prepared", "acme")


async def test_many_in_a_run(hw: Headwater, recorder: Recorder) -> None:
    """Events of one call share run, cause and trace; each has an id and a span of its own, in their order."""
    async with hw.run("sofia") as run:
        await hw.emit_many([e.AgentRetired(agent_id=f"a{n}") for n in range(20)])
        given = f"00-{'a' * 32}-{'b' * 16}-01"
        await hw.emit_many([e.AgentAnnounced(agent_id="b", role="r", version="1")] * 2, traceparent=given)
    found = await recorder.events()
    many = [d for d in found if isinstance(d.event, e.AgentRetired)]
    assert [d.event.agent_id for d in many] == [f"a{n}" for n in range(20)]  # type: ignore[attr-defined]
    start = one(found, e.RunStarted).envelope
    assert {(d.envelope.correlation_id, d.envelope.causation_id) for d in many} == {(run.id, start.id)}
    spans = [d.envelope.traceparent or "" for d in many]
    assert all(TRACEPARENT.fullmatch(span) for span in spans)
    assert {span[:36] for span in spans} == {(start.traceparent or "")[:36]}
    assert len({span[36:52] for span in spans} | {(start.traceparent or "")[36:52]}) == 21
    assert len({d.envelope.id for d in many}) == 20
    asked = [d.envelope.traceparent for d in found if isinstance(d.event, e.AgentAnnounced)]
    assert asked == [given, given]


async def test_a_run(hw: Headwater, recorder: Recorder) -> None:
    """Every step shares the run's id and trace, is caused by what it is nested in, and is its own span."""
    async with hw.run("sofia", task="flight", conversation_id="talk") as run:
        async with hw.llm_call("openai", "gpt-4o-mini") as llm:
            llm.answered(input_tokens=10, output_tokens=5, cost_usd=0.01, finish_reason="stop")
        async with hw.tool_call("web_search", {"q": "LIS-BER"}) as tool:
            await asyncio.gather(hw.metric("tool:web_search", "hits", 3))  # a task of its own
            tool.result = {"flights": 2}
        said = await hw.message("There is one.", recipient_id="anna")
        await hw.error("agent:sofia", ValueError("late"), cause=said.id)
        await hw.heartbeat(load=0.5, version="1")
        run.finish(score=0.75, reason="booked")
    found = await recorder.events()
    start = one(found, e.RunStarted)
    assert start.event == e.RunStarted(run_id=run.id, agent_id="sofia", task="flight")
    assert start.envelope.causation_id is None
    assert {d.envelope.correlation_id for d in found} == {run.id}
    assert {d.envelope.project for d in found} == {"acme"}
    spans = [d.envelope.traceparent or "" for d in found]
    assert all(TRACEPARENT.fullmatch(s) for s in spans)
    assert len({s[3:35] for s in spans}) == 1
    assert len({s[36:52] for s in spans}) == len(found) == 10
    tool_asked, llm_asked = one(found, e.ToolCallRequested), one(found, e.LlmCallRequested)
    causes = {d.envelope.type: d.envelope.causation_id for d in found}
    root = start.envelope.id
    assert causes == {
        "RunStarted": None,
        "LlmCallRequested": root,
        "LlmCallCompleted": llm_asked.envelope.id,
        "ToolCallRequested": root,
        "MetricReported": tool_asked.envelope.id,
        "ToolCallCompleted": tool_asked.envelope.id,
        "MessagePosted": root,
        "ErrorReported": said.id,
        "AgentHeartbeat": root,
        "RunFinished": root,
    }
    done = one(found, e.ToolCallCompleted).event
    assert isinstance(done, e.ToolCallCompleted)
    assert (done.call_id, done.result, done.conversation_id) == (tool.call_id, '{"flights": 2}', "talk")
    assert done.latency_ms is not None
    assert 0 < done.latency_ms < 60_000
    answered = one(found, e.LlmCallCompleted).event
    assert isinstance(answered, e.LlmCallCompleted)
    assert (answered.input_tokens, answered.cost_usd, answered.finish_reason) == (10, 0.01, "stop")
    assert one(found, e.MessagePosted).event == e.MessagePosted(
        agent_id="sofia",
        role="assistant",
        content="There is one.",
        recipient_id="anna",
        conversation_id="talk",
    )
    assert one(found, e.RunFinished).event == e.RunFinished(
        run_id=run.id, agent_id="sofia", outcome="success", score=0.75, reason="booked"
    )
    assert current() is None


async def test_what_raises_is_told_and_goes_on(hw: Headwater, recorder: Recorder) -> None:
    """A raising body ends in ToolCallFailed, LlmCallFailed and a failed run, and the exception goes on."""
    with pytest.raises(TimeoutError, match="no answer"):
        async with hw.run("sofia"), hw.llm_call("p", "m"), hw.tool_call("t"):
            raise TimeoutError("no answer")
    found = await recorder.events()
    tool, llm, run = (one(found, k).event for k in (e.ToolCallFailed, e.LlmCallFailed, e.RunFinished))
    assert isinstance(tool, e.ToolCallFailed)
    assert isinstance(llm, e.LlmCallFailed)
    assert isinstance(run, e.RunFinished)
    assert (tool.error_type, tool.error_message) == ("TimeoutError", "no answer")
    assert llm.error_type == "TimeoutError"
    assert (run.outcome, run.reason) == ("failure", "TimeoutError: no answer")
    assert current() is None


async def test_a_cancelled_run(hw: Headwater, recorder: Recorder) -> None:
    """A cancellation is an outcome of its own."""

    async def work() -> None:
        async with hw.run("sofia"):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    while not await recorder.events():
        pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    finished = one(await recorder.events(), e.RunFinished).event
    assert isinstance(finished, e.RunFinished)
    assert finished.outcome == "cancelled"


async def test_a_run_inside_a_run(hw: Headwater, recorder: Recorder) -> None:
    """It has an id of its own, is caused by the outer one's event, and shares its trace."""
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    async with hw.run("outer", run_id="r-outer", project="globex", traceparent=trace):
        async with hw.run("inner", run_id="r-inner"):
            await hw.message("hi")
        await hw.message("back")
    found = await recorder.events()
    starts = {d.envelope.correlation_id: d.envelope for d in found if isinstance(d.event, e.RunStarted)}
    assert starts["r-inner"].causation_id == starts["r-outer"].id
    said = {d.event.content: d for d in found if isinstance(d.event, e.MessagePosted)}
    assert said["hi"].envelope.correlation_id == "r-inner"
    assert said["hi"].envelope.causation_id == starts["r-inner"].id
    assert said["back"].envelope.correlation_id == "r-outer"
    assert {d.envelope.project for d in found} == {"globex"}
    assert {(d.envelope.traceparent or "")[3:35] for d in found} == {"a" * 32}


async def test_runs_beside_each_other_do_not_mix(hw: Headwater, recorder: Recorder) -> None:
    """Tasks have contexts of their own."""

    async def work(agent: str) -> None:
        async with hw.run(agent, run_id=f"r-{agent}"):
            for _ in range(5):
                await hw.message("x")
                await asyncio.sleep(0)

    await asyncio.gather(*(work(f"a{i}") for i in range(10)))
    for d in await recorder.events():
        assert d.envelope.correlation_id == f"r-{d.event.agent_id}"  # type: ignore[attr-defined]


async def test_calls_outside_of_a_run(hw: Headwater, recorder: Recorder) -> None:
    """A call on its own needs an agent; its events are linked to each other and to no run."""
    async with hw.tool_call("t", agent_id="solo"):
        await hw.metric("tool:t", "n", 1)
    found = await recorder.events()
    asked, done, metric = (
        one(found, kind).envelope for kind in (e.ToolCallRequested, e.ToolCallCompleted, e.MetricReported)
    )
    assert done.causation_id == metric.causation_id == asked.id
    assert {d.correlation_id for d in (asked, done, metric)} == {None}
    with pytest.raises(InvalidEvent, match="no agent_id"):
        hw.tool_call("t")
    with pytest.raises(InvalidEvent, match="no agent_id"):
        _ = hw.message("x")


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (lambda hw: hw.metric("tool:t", "n", float("nan")), "value: .*finite"),
        (lambda hw: hw.metric("", "n", 1.0), "component"),
        (lambda hw: hw.message("x", agent_id="a" * 300), "agent_id"),
        (lambda hw: hw.heartbeat(load=-1, version="1", agent_id="a"), "load"),
        (lambda hw: hw.error("c", "E", severity="fatal"), "severity"),
        (lambda hw: hw.run("a", traceparent="nonsense"), "traceparent"),
    ],
)
async def test_bad_input(hw: Headwater, bad: Callable[[Headwater], object], what: str) -> None:
    """What is no event raises InvalidEvent naming the field, before anything is sent."""
    with pytest.raises(InvalidEvent, match=what):
        bad(hw)


async def test_a_bad_end_does_not_hide_the_error(hw: Headwater, recorder: Recorder) -> None:
    """Where the event at the end cannot be written, the body's exception goes on with a note of it."""
    with pytest.raises(ValueError, match="huge") as caught:
        async with hw.tool_call("t", agent_id="a"):
            raise ValueError("huge" * 500_000)
    assert "was not written" in caught.value.__notes__[0]
    with pytest.raises(InvalidEvent, match="input_tokens"):
        async with hw.llm_call("p", "m", agent_id="a") as call:
            call.answered(input_tokens=-1)
    assert names(await recorder.events()) == ["ToolCallRequested", "LlmCallRequested"]


async def test_results_of_any_kind_become_text(hw: Headwater, recorder: Recorder) -> None:
    """Text stays, the rest becomes JSON, and what JSON does not know its `str`."""
    circle: list[object] = []
    circle.append(circle)
    results = ["plain", {"ä": 1}, {1, 2} - {2}, 2**80, {(1, 2): 3}, circle, None]
    for result in results:
        async with hw.tool_call("t", '{"as": "written"}', agent_id="a") as call:
            call.result = result
    found = await recorder.events()
    texts = [d.event.result for d in found if isinstance(d.event, e.ToolCallCompleted)]
    assert texts == ["plain", '{"ä": 1}', '"{1}"', str(2**80), "{(1, 2): 3}", "[[...]]", "null"]
    assert {d.event.arguments for d in found if isinstance(d.event, e.ToolCallRequested)} == {
        '{"as": "written"}'
    }


def test_sync(broker: Settings) -> None:
    """The same methods block, from several threads, and carry the same context."""
    with SyncHeadwater(broker, project="acme") as hw:
        emitted: list[Emitted] = []
        with hw.run("sofia") as run:
            with hw.tool_call("t") as call:
                call.result = "ok"
                emitted.append(hw.metric("tool:t", "n", 1.0))
            emitted += hw.emit_many([e.AgentRetired(agent_id="sofia")] * 3)

            def elsewhere() -> None:
                emitted.append(hw.message("from a thread"))

            thread = threading.Thread(target=copy_context().run, args=(elsewhere,))
            thread.start()
            thread.join()
        with pytest.raises(KeyError), hw.run("sofia"):
            raise KeyError("x")
        hw.flush()
    assert current() is None
    got = asyncio.run(read(broker, [m.position for m in emitted]))
    assert {d.envelope.correlation_id for d in got} == {run.id}
    assert names(got) == ["MetricReported", "AgentRetired", "AgentRetired", "AgentRetired", "MessagePosted"]


def test_sync_in_many_threads(broker: Settings) -> None:
    """One connection serves many threads; none waits for another's run."""
    with SyncHeadwater(broker) as hw:
        found: list[Emitted] = []

        def work(n: int) -> None:
            with hw.run(f"a{n}", run_id=f"r{n}"):
                found.extend(hw.message(str(n)) for _ in range(20))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    got = asyncio.run(read(broker, [m.position for m in found]))
    assert len(got) == 160
    for d in got:
        assert isinstance(d.event, e.MessagePosted)
        assert d.envelope.correlation_id == f"r{d.event.content}"


def test_sync_without_a_broker(tmp_path: Path) -> None:
    """Connecting raises BrokerUnavailable after the deadline, and leaves no thread behind."""
    before = threading.active_count()
    settings = Settings(data=tmp_path, port=free_base_port())
    with pytest.raises(BrokerUnavailable):
        SyncHeadwater.connect(settings, deadline_s=0.5)
    assert threading.active_count() == before


def test_sync_needs_to_be_connected(broker: Settings) -> None:
    """Emitting before connecting and after closing says so; closing twice is nothing."""
    hw = SyncHeadwater(broker)
    with pytest.raises(HeadwaterError, match="not connected"):
        hw.message("x", agent_id="a")
    with hw:
        hw.message("x", agent_id="a")
        with pytest.raises(HeadwaterError, match="already"):
            hw._start()
    hw.close()
    with pytest.raises(HeadwaterError, match="not connected"):
        hw.flush()


async def test_connect_and_close(broker: Settings) -> None:
    """Without a context manager: connect, emit, flush, close."""
    hw = await Headwater.connect(broker, project="acme")
    await hw.message("x", agent_id="a")
    await hw.flush()
    await hw.close()
    with pytest.raises(HeadwaterError, match="stopped"):
        await hw.message("x", agent_id="a")
