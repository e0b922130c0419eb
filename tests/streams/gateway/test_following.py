"""GET /v1/events as a stream: a real broker, a real server, clients that reconnect."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition
from httpx_sse import aconnect_sse

from projections.position import decode, encode
from schemas import events as e
from schemas import topics
from streams.admin import admin_client
from streams.following import feed as feed_module
from streams.following import stream as stream_module
from streams.following.ring import Ring
from streams.gateway import following as following_module
from streams.keys import admin_key, create, list_keys, revoke, rotate
from streams.settings import Settings
from streams.supervision.metrics import REGISTRY
from streams.views.follower import run as run_views
from tests.streams.gateway.door import door
from tests.streams.gateway.following import CODEC, Client, instance, message, records, write
from tests.streams.gateway.serving import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settings(broker: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An instance for all tests of the module; each has a project of its own."""
    return await instance(broker, tmp_path_factory.mktemp("following"))


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    """Address of a running `serve`."""
    with serving(settings) as address:
        yield address


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the first connection to Kafka may take longer than a client is let wait for it."""
    monkeypatch.setattr(feed_module, "READY_S", 30.0)


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    """A project of the test's own."""
    return str(request.node.name)


@pytest.fixture
def key(settings: Settings, project: str) -> str:
    """A key that may read it."""
    return create(settings, project, ["read"], "reader")


def numbers(client: Client) -> list[int]:
    """What the messages say that were received."""
    return [int(event["data"]["content"]) for event in client.events]


async def test_each_committed_event_comes_once(settings: Settings, url: str, key: str, project: str) -> None:
    """What is committed from now on comes once; what was before, another project's and what is aborted does not."""
    await write(settings, records([message(-1)], project=project))
    async with Client(url, key) as client:
        await write(
            settings, records([message(n, f"a{n}") for n in range(40)], project=project), transaction="one"
        )
        await write(settings, records([message(-2)], project="another"))
        await write(settings, records([message(-3)] * 40, project=project), transaction="two", commit=False)
        await write(settings, records([message(n, f"a{n}") for n in range(40, 80)], project=project))
        await client.count(80)
    assert sorted(numbers(client)) == list(range(80))
    assert client.connections == 1
    assert client.reasons == []


async def test_a_message_is_the_item_of_a_page(settings: Settings, url: str, key: str, project: str) -> None:
    """`data` is, field by field, what the paged answer gives for the event once the view has it."""
    events: list[e.Event] = [
        message(1, "ünï\x00"),
        e.LlmCallCompleted(
            agent_id="a", call_id="c", provider_name="p", request_model="m", input_tokens=2**62, cost_usd=1e-9
        ),
        e.RunFinished(run_id="r", agent_id="a", outcome="success", score=0.5),
        e.ToolCallRequested(agent_id="a", tool_name="t", call_id="c", arguments='{"line": "\\n\\r"}'),
        e.MessagePosted(agent_id="a", role="user", content="two\nlines\r\nand\u2028more"),
    ]
    about: dict[str, Any] = {"project": project, "correlation_id": "r", "causation_id": "c", "time": 1.5}
    async with Client(url, key) as client:
        await write(settings, records(events, **about, traceparent=f"00-{'1' * 32}-{'2' * 16}-01"))
        await client.count(len(events))
    stop = asyncio.Event()
    views = asyncio.create_task(run_views(settings, stop))
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}) as http:
        for _ in range(200):
            answer = await http.get("/v1/events", params={"correlation_id": "r"})
            if answer.status_code == 200 and len(answer.json()["items"]) == len(events):
                break
            await asyncio.sleep(0.1)
        stop.set()
        await views
    paged = {item["id"]: item for item in answer.json()["items"]}
    assert {event["id"]: event for event in client.events} == paged
    # A page's position is a place to go on from: nothing is missing between the page and the stream.
    async with Client(url, key, last=answer.json()["position"]) as after:
        await write(settings, records([message(7)], project=project))
        await after.count(1)
    assert numbers(after) == [7]


async def test_what_is_no_event_of_the_view_is_left_out(
    settings: Settings, url: str, key: str, project: str
) -> None:
    """Garbage, replays that are addressed to one fold, keyed and control topics: none of it comes."""
    (plain,) = records([message(1)], project=project)
    replay = plain._replace(headers=[*plain.headers, ("ce_replayof", b"intake")])
    headers = [(name, value) for name, value in plain.headers if name != "ce_type"]
    others = [
        plain._replace(topic=topics.topic_of(type(event)).name, value=CODEC.encode(event), headers=headers)
        for event in (
            e.Signal(component="c", kind="metric", name="n", value=1.0),
            e.WebhookRemoved(webhook_id="w"),
        )
    ]
    async with Client(url, key) as client:
        await write(
            settings, [plain._replace(value=b"garbage"), plain._replace(key=b"\xff"), replay, *others]
        )
        await write(settings, [plain])
        await client.count(1, still_s=0.5)
    assert numbers(client) == [1]


async def test_an_event_delivered_twice_comes_twice(
    settings: Settings, url: str, key: str, project: str
) -> None:
    """The stream is the log: both deliveries come, with one event id and two places."""
    async with Client(url, key) as client:
        await write(settings, records([message(1)], project=project, id="same") * 2)
        first, second = await client.count(2)
    assert first["id"] == second["id"] == "same"
    assert first["offset"] != second["offset"]


def place(event: dict[str, Any]) -> tuple[str, int, int]:
    """Where an event stands in the log."""
    return event["topic"], event["partition"], event["offset"]


def assert_in_order(events: Sequence[dict[str, Any]]) -> None:
    """Within a partition, offsets rise."""
    last: dict[tuple[str, int], int] = {}
    for topic, partition, offset in map(place, events):
        assert offset > last.get((topic, partition), -1)
        last[topic, partition] = offset


async def some_of_everything(settings: Settings, project: str) -> None:
    """Events of several topics and partitions, in transactions, some of them aborted, and without."""
    for number in range(6):
        made: list[e.Event] = [message(n, f"a{n}") for n in range(10)]
        made += [e.RunStarted(run_id=f"r{n}", agent_id=f"a{n}", task="t") for n in range(5)]
        transaction = project if number % 3 else None
        await write(settings, records(made, project=project), transaction=transaction, commit=number % 3 < 2)


async def resumed(settings: Settings, url: str, key: str, first: Client) -> None:
    """Resume after every third id of a client, all at once: each gets exactly the rest."""
    numbers = range(0, len(first.ids), 3)
    async with AsyncExitStack() as stack:
        clients = [(n, await stack.enter_async_context(Client(url, key, last=first.ids[n]))) for n in numbers]
        for number, client in clients:
            rest = first.events[number + 1 :]
            await client.count(len(rest), still_s=0)
            assert sorted(client.events, key=place) == sorted(rest, key=place)
            assert_in_order(client.events)
        await asyncio.sleep(0.3)
        assert [len(c.events) for _, c in clients] == [len(first.ids) - n - 1 for n in numbers]


async def test_every_id_resumes_from_memory(settings: Settings, url: str, key: str, project: str) -> None:
    """After each event, in the middle of a batch and of a transaction too, what came later comes, and only that."""
    async with Client(url, key) as client:
        await some_of_everything(settings, project)
        await client.count(60)
    await resumed(settings, url, key, client)


async def test_every_id_resumes_from_the_log(
    settings: Settings, url: str, key: str, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on another server that has read nothing yet: each stream reads for itself, a few at a time."""
    monkeypatch.setattr(feed_module, "RECENT_S", -60.0)
    async with Client(url, key) as client:
        await some_of_everything(settings, project)
        await client.count(60)
    with serving(settings) as other:
        await resumed(settings, other, key, client)


async def test_the_whole_log_can_be_followed(settings: Settings, url: str, key: str, project: str) -> None:
    """From the log's very start, and on to what comes."""
    await some_of_everything(settings, project)
    async with Client(url, key, since="1970-01-01T00:00:00Z") as client:
        await client.count(60)
        await write(settings, records([message(99)], project=project))
        await client.count(61)
    assert len(set(map(place, client.events))) == 61
    assert_in_order(client.events)


async def test_a_stream_begins_at_a_time(settings: Settings, url: str, key: str, project: str) -> None:
    """With `since`, what was written from then on comes, however long ago; an id goes before it."""
    await some_of_everything(settings, project)
    await asyncio.sleep(0.05)
    then = datetime.now(UTC).isoformat()
    await asyncio.sleep(0.05)
    await write(settings, records([message(n) for n in range(9)], project=project))
    async with Client(url, key, since=then) as client:
        await client.count(9)
        assert numbers(client) == list(range(9))
    async with Client(url, key, since="2000-01-01", last=client.ids[4]) as later:
        await later.count(4)
        assert numbers(later) == [5, 6, 7, 8]
    async with Client(url, key, last_event_id=client.ids[6]) as by_parameter:
        await by_parameter.count(2)


async def test_fifty_streams_get_what_each_wants(settings: Settings, url: str, project: str) -> None:
    """Streams of several projects with all kinds of filters: each gets exactly what it asked for, in order."""
    chance = random.Random(5)
    projects = [f"{project}-{n}" for n in range(3)]
    keys = {p: create(settings, p, ["read"], "fifty") for p in projects}
    written = []
    for number in range(600):
        agent = f"a{chance.randrange(4)}"
        made: list[e.Event] = [
            message(number, agent),
            e.RunStarted(run_id="r", agent_id=agent, task=str(number)),
            e.ToolCallFailed(
                agent_id=agent, tool_name=f"t{chance.randrange(2)}", call_id="c", error_type="E"
            ),
        ]
        about: dict[str, Any] = {
            "project": chance.choice(projects),
            "correlation_id": chance.choice(["x", "y", None]),
        }
        written += records([chance.choice(made)], id=f"{project}-{number}", **about)
    choices = {
        "topic": ["agent.messages", "agent.runs", "agent.tool-calls"],
        "type": ["MessagePosted", "RunStarted", "ToolCallFailed"],
        "key": ["a0", "a1", "t0"],
        "correlation_id": ["x", "y"],
    }
    filters = [
        {name: chance.choice(choices[name]) for name in chance.sample(sorted(choices), chance.randrange(3))}
        for _ in range(50)
    ]
    async with AsyncExitStack() as stack:
        clients = []
        for number, wanted in enumerate(filters):
            own = projects[number % 3]
            asks = Client(url, keys[own], **wanted)
            if number % 7 == 0:
                asks = Client(url, admin_key(settings), project=own, **wanted)
            clients.append(await stack.enter_async_context(asks))
        whole = [await stack.enter_async_context(Client(url, keys[p])) for p in projects]
        for at in range(0, 600, 60):
            await write(settings, written[at : at + 60], transaction=project if at % 120 else None)
        await whole[0].until(lambda: sum(len(c.events) for c in whole) == 600)
        await asyncio.sleep(0.5)
    assert {event["id"] for c in whole for event in c.events} == {p.id for p in written}
    for number, (client, wanted) in enumerate(zip(clients, filters, strict=True)):
        expected = [
            x for x in whole[number % 3].events if all(x[name] == value for name, value in wanted.items())
        ]
        assert client.events == expected, wanted
        assert client.connections == 1


@contextmanager
def small_ring(settings: Settings, monkeypatch: pytest.MonkeyPatch, limit: int = 200_000) -> Iterator[str]:
    """A server whose ring keeps little."""
    monkeypatch.setattr(feed_module, "Ring", partial(Ring, limit=limit))
    with serving(settings) as address:
        yield address


NARROW = httpx.AsyncHTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)])


def ended(why: str) -> float:
    """How many streams ended for that reason."""
    return REGISTRY.get_sample_value("headwater_event_streams_ended_total", {"why": why}) or 0.0


async def test_a_slow_client_is_cut_off_and_resumes(
    settings: Settings, key: str, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who falls behind is told so by the last message, and gets the rest after its last id; others are not held up."""
    text = "x" * 3000
    with small_ring(settings, monkeypatch) as url:
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            httpx.AsyncClient(base_url=url, headers=headers, transport=NARROW, timeout=60) as http,
            aconnect_sse(http, "GET", "/v1/events") as source,
        ):
            messages = source.aiter_sse()
            await anext(messages)
            async with Client(url, key, type="RunStarted") as other:
                for at in range(0, 4000, 200):
                    await write(settings, records([message(0, content=text)] * 200, project=project))
                    run = e.RunStarted(run_id=str(at), agent_id="a", task="")
                    await write(settings, records([run], project=project))
                await other.count(20)
            got = [m async for m in messages]
        *events, last = [m for m in got if m.data]
        assert last.event == "end"
        assert last.json()["type"] == "urn:headwater:problem:too-slow"
        assert last.json()["hint"] == "resume after the last id"
        assert 0 < len(events) < 4000
        async with Client(url, key, last=events[-1].id) as rest:
            await rest.count(4020 - len(events))
    both = [m.json() for m in events] + rest.events
    assert len(set(map(place, both))) == 4020
    assert_in_order(both)


async def test_a_client_that_takes_nothing_is_hung_up_on(
    settings: Settings,
    key: str,
    project: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It can be told nothing; its connection is ended, so that nothing is kept for it."""
    monkeypatch.setattr(following_module, "STALLED_S", 1.0)
    before = ended("stalled")
    with small_ring(settings, monkeypatch) as url, stuck_client(url, key) as sock:
        await write(settings, records([message(0, content="x" * 100_000)] * 150, project=project))
        async with asyncio.timeout(10):
            while ended("stalled") == before:  # noqa: ASYNC110 - a counter tells nobody
                await asyncio.sleep(0.05)
        assert 0 < await asyncio.to_thread(drain, sock) < 15_000_000
    assert not [line for line in caplog.messages if "without completing" in line]


def drain(sock: socket.socket) -> int:
    """Read to the end; gives how many bytes there were."""
    total = 0
    while chunk := sock.recv(1 << 20):
        total += len(chunk)
    return total


@contextmanager
def stuck_client(url: str, key: str) -> Iterator[socket.socket]:
    """A connection that follows, and reads nothing but the first bytes."""
    parts = httpx.URL(url)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.connect((parts.host, parts.port))
        head = f"GET /v1/events HTTP/1.1\r\nHost: {parts.host}\r\nAccept: text/event-stream\r\n"
        sock.sendall(f"{head}Authorization: Bearer {key}\r\n\r\n".encode())
        assert sock.recv(12) == b"HTTP/1.1 200"
        yield sock


async def test_a_stopping_server_ends_its_streams(settings: Settings, key: str, project: str) -> None:
    """SIGTERM: clients are told why, one that reads nothing holds nothing up, and the process is gone at once."""
    async with AsyncExitStack() as stack:
        with door(settings) as url:
            clients = [await stack.enter_async_context(Client(url, key)) for _ in range(5)]
            stack.enter_context(stuck_client(url, key))
            await write(settings, records([message(0, content="x" * 100_000)] * 150, project=project))
            for client in clients:
                await client.until(lambda c=client: len(c.events) == 150)  # type: ignore[misc]
            began = time.monotonic()
        took_s = time.monotonic() - began
        for client in clients:
            await client.until(lambda c=client: c.reasons)  # type: ignore[misc]
    assert took_s < 2, "the supervisor waits 0.8 s before it goes on to the others"
    assert [c.reasons[0]["type"] for c in clients] == ["urn:headwater:problem:server-stops"] * 5


async def test_a_key_that_ends_ends_its_streams(settings: Settings, url: str, project: str) -> None:
    """Revoked, expired, replaced: within seconds the stream says so and ends, and there is no way back in."""
    create_ = partial(create, settings, project, ["read"])
    keys = {
        "revoked": create_("to revoke"),
        "expired": create_("to expire", expires=time.time() + 2),
        "replaced": create_("to rotate"),
    }
    ids = {k.name: k.id for k in list_keys(settings)}
    async with AsyncExitStack() as stack:
        clients = {why: await stack.enter_async_context(Client(url, k)) for why, k in keys.items()}
        revoke(settings, ids["to revoke"])
        rotate(settings, ids["to rotate"], 0)
        for why, client in clients.items():
            await client.until(lambda c=client: c.refused is not None, 6)  # type: ignore[misc]
            assert client.reasons[0]["type"] == "urn:headwater:problem:key-ended"
            assert why in client.reasons[0]["detail"]
            assert client.refused is not None
            assert client.refused.status_code == 401


async def test_streams_are_counted(
    settings: Settings, key: str, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One key may have so many open (429), all of them together so many (503); who leaves makes room."""
    monkeypatch.setattr(feed_module, "MOST_STREAMS", 3)
    monkeypatch.setattr(feed_module, "MOST_OF_ONE_KEY", 2)
    second = create(settings, project, ["read"], "second")
    with serving(settings) as url:
        async with Client(url, key):
            async with Client(url, key), Client(url, key) as third:
                assert third.refused is not None
                assert third.refused.status_code == 429
                assert third.refused.headers["Retry-After"] == "1"
                async with Client(url, second), Client(url, second) as fourth:
                    assert fourth.refused is not None
                    assert (fourth.refused.status_code, fourth.refused.headers["Retry-After"]) == (503, "1")
                    assert fourth.refused.json()["type"] == "urn:headwater:problem:too-many-streams"
            async with asyncio.timeout(5):
                while REGISTRY.get_sample_value("headwater_event_streams") != 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            async with Client(url, key) as again:
                assert again.refused is None


async def test_without_streams_nothing_reads(
    settings: Settings, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without streams has no reader; after the last one has left it is given up."""
    monkeypatch.setattr(feed_module, "IDLE_S", 0.5)
    made: list[feed_module.Feed] = []
    init = feed_module.Feed.__init__

    def noting(self: feed_module.Feed, *args: Any) -> None:
        made.append(self)
        init(self, *args)

    monkeypatch.setattr(feed_module.Feed, "__init__", noting)
    with serving(settings) as url:
        (feed,) = made
        assert feed._task is None
        async with Client(url, key):
            assert feed._task is not None
            assert feed.ring is not None
        async with asyncio.timeout(10):
            while not feed._task.done():  # noqa: ASYNC110 - it ends by itself
                await asyncio.sleep(0.05)
        assert feed.ring is None
        async with Client(url, key) as client:
            assert client.refused is None


async def test_a_silent_stream_has_comments(
    settings: Settings, url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every so often something comes, whatever the filters leave out: proxies take silence for death."""
    monkeypatch.setattr(stream_module, "HEARTBEAT_S", 0.5)
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers) as http,
        http.stream("GET", "/v1/events", params={"topic": "anomalies"}) as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        assert "x-correlation-id" in answer.headers
        lines = answer.aiter_lines()
        assert await anext(lines) == "retry: 2000"
        assert decode((await anext(lines)).removeprefix("id: ")).keys() == {"anomalies"}
        async with asyncio.timeout(5):
            async for line in lines:
                if line.startswith(": "):
                    break


async def test_questions_that_no_stream_can_answer_are_refused(
    settings: Settings, url: str, key: str, project: str
) -> None:
    """Unknown names, parameters of pages, ids of other logs, other projects: problem+json before any message."""
    stream = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    blind = create(settings, project, ["produce"], "blind")
    cases: list[tuple[dict[str, str], dict[str, str], int, str]] = [
        ({"limit": "5"}, {}, 422, "query.limit"),
        ({"until": "2030-01-01", "order": "newest"}, {}, 422, "query.order"),
        ({"at": "2026-01-01"}, {}, 422, "at is of pages, not of streams"),
        ({"at": "2026-01-01", "correlation_id": "r"}, {}, 422, "at is of pages, not of streams"),
        ({"topic": "signals"}, {}, 422, "agent.messages"),
        ({"type": "Nothing"}, {}, 422, "MessagePosted"),
        ({"last_event_id": "garbage"}, {}, 400, "not a position token"),
        ({}, {"Last-Event-ID": "garbage"}, 400, "not a position token"),
        ({}, {"Last-Event-ID": encode({"signals": {0: 1}})}, 400, "says nothing of"),
        ({}, {"Last-Event-ID": encode({"agent.runs": {99: 1}})}, 400, "no partition 99"),
        ({}, {"Last-Event-ID": encode({"agent.runs": {0: 10**9}})}, 410, "goes from 0 to"),
        ({"since": "yesterday"}, {}, 422, "query.since"),
        ({"project": "another"}, {}, 403, "belongs to project"),
        ({}, {"Authorization": f"Bearer {blind}"}, 403, "may not read"),
        ({}, {"Authorization": "Bearer x"}, 401, "not known"),
        ({"last_event_id": "x"}, {"Accept": "application/json"}, 422, "Accept: text/event-stream"),
    ]
    async with httpx.AsyncClient(base_url=url) as http:
        for params, headers, status, says in cases:
            answer = await http.get("/v1/events", params=params, headers=stream | headers)
            assert answer.status_code == status, (params, headers, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert says in answer.text, answer.text


async def test_an_id_that_the_log_has_lost_is_gone(
    settings: Settings, broker: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """410, with the place and what to do, instead of a stream with a hole in it."""
    monkeypatch.setattr(feed_module, "RECENT_S", -60.0)
    own = await instance(broker, tmp_path, partitions=1)
    key = admin_key(own)
    with serving(own) as url:
        async with Client(url, key) as client:
            await write(own, records([message(n) for n in range(20)]))
            await client.count(20)
        async with admin_client(own) as admin:
            tp = TopicPartition(own.named("agent.messages"), 0)
            await admin.delete_records({tp: RecordsToDelete(before_offset=10)})
    with serving(own) as url:
        async with Client(url, key, last=client.ids[8]) as lost:
            assert lost.refused is not None
            assert lost.refused.status_code == 410
            problem = lost.refused.json()
        assert "offset 9 of agent.messages/0" in problem["detail"]
        assert "without an id" in problem["hint"]
        async with Client(url, key, last=client.ids[9]) as kept:
            await kept.count(10)


async def test_producer_can_follow_its_own_write(
    settings: Settings, url: str, key: str, project: str
) -> None:
    """A filter by producer key gives what came in over HTTP with it."""
    writer = create(settings, project, ["produce"], "writer")
    id_ = next(k.id for k in list_keys(settings) if k.name == "writer" and k.project == project)
    async with Client(url, key, producer_key=id_) as client:
        await write(settings, records([message(1)], project=project))
        headers = {"Authorization": f"Bearer {writer}"}
        body = {"type": "MessagePosted", "data": message(2).model_dump()}
        async with httpx.AsyncClient(base_url=url, headers=headers) as http:
            assert (await http.post("/v1/events", json=body)).status_code == 200
        await client.count(1)
    assert client.events[0]["producer_key"] == id_
    assert numbers(client) == [2]
