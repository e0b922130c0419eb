"""What an answer about the past costs, and what cannot be answered."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from projections.agents import Agents
from projections.components import Components
from projections.events import Events
from projections.history import Key
from projections.past import asking, listing, state
from projections.past.cut import shown
from projections.past.state import Rows, State
from projections.position import encode, position_of
from projections.runs import Runs
from projections.store import Store
from projections.view import Place
from schemas import events as e
from tests.projections.material import BEGIN, Log, store_at
from tests.projections.past.conftest import BUCKET
from tests.projections.past.memory import PARTITIONS, MemoryLog, client_of


def grown(log: Log, store: Store, count: int) -> None:
    """Let a log of runs, and signals of a component and an agent, grow; the store reads it."""
    start = dict(log.ends)
    begin = len(log.entries)
    for number in range(begin, begin + count):
        log.append(e.RunStarted(run_id=f"r{number:06}", agent_id="a"), partition=number % 2)
        log.append(
            e.Signal(component="c", kind="call", name="latency_ms", value=5.0, agent_id="a"),
            partition=number % 2,
        )
    for name in store.views:
        read = {t.name for t in store.views[name].topics}
        ours = [x for x in log.entries[begin:] if x.topic in read]
        ends = {p: o for p, o in log.ends.items() if p[0] in read}
        store.apply(name, 1, ours, {p: start.get(p) for p in ends}, ends)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    found = store_at(f"sqlite:///{tmp_path / 'v.sqlite'}", [Components(), Agents(), Runs(), Events()])
    yield found
    found.close()


@pytest.fixture
def memory() -> MemoryLog:
    """An empty log."""
    return MemoryLog(Log())


@pytest.fixture
async def client(store: Store, memory: MemoryLog) -> AsyncIterator[httpx.AsyncClient]:
    """A client of both."""
    async with client_of(store, memory) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/v1/runs", "/v1/components", "/v1/agents/a", "/v1/components/c", "/v1/runs/r000001"]
)
async def test_the_cost_does_not_grow_with_the_log(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient, path: str
) -> None:
    """Of a log of ten times the length no more records are read, no more statements made, at any cut."""
    statements: list[str] = []
    event.listen(store._reader, "before_cursor_execute", lambda *a: statements.append(a[2]))
    costs = []
    for count in (100, 1_000):
        grown(memory.log, store, count)
        for share in (0.3, 0.6, 0.99):
            cut = {place: int(end * share) for place, end in memory.log.ends.items()}
            memory.read_records = memory.readings = 0
            statements.clear()
            answer = await client.get(path, params={"at": encode(position_of([cut]))})
            assert answer.status_code == 200
            assert memory.readings == 1
            assert memory.read_records < BUCKET * PARTITIONS * 2
            costs.append(len(statements))
    assert max(costs[3:]) <= max(costs[:3]) + 2


async def test_a_page_looks_at_so_many_rows_and_no_more(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a filter holds for almost nothing, `next` goes on behind what was looked at, and all is found once."""
    grown(memory.log, store, 120)
    end = {(x.topic, x.partition): x.offset + 1 for x in memory.log.entries}
    grown(memory.log, store, 10)
    monkeypatch.setattr(listing, "MOST", 50)
    taken: list[int] = []
    whole = State.rows

    def rows(self: State, keys: Collection[Key], tables: Collection[str] | None = None) -> dict[Key, Rows]:
        taken.append(len(keys))
        return whole(self, keys, tables)

    monkeypatch.setattr(State, "rows", rows)
    for path, question, all_of_them in (
        ("/v1/runs", {"agent": "b"}, 0),
        ("/v1/runs", {"agent": "a"}, 120),
        ("/v1/agents", {"role": "none"}, 0),
    ):
        params: dict[str, Any] = {"limit": 7, "at": encode(position_of([end])), **question}
        seen: list[str] = []
        pages = 0
        while True:
            taken.clear()
            body = (await client.get(path, params=params)).json()
            assert sum(taken) <= 2 * listing.MOST
            seen += [item["id"] for item in body["items"]]
            pages += 1
            if body["next"] is None:
                break
            params["cursor"] = body["next"]
        assert len(seen) == len(set(seen)) == all_of_them
        assert pages > 1 or path == "/v1/agents"


async def test_a_list_makes_no_more_than_it_shows(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient
) -> None:
    """A component may have any number of signals, which its list has not: they are not looked at."""
    grown(memory.log, store, 40)
    statements: list[str] = []
    event.listen(store._reader, "before_cursor_execute", lambda *a: statements.append(a[2]))
    token = encode(position_of([memory.log.ends]))
    for path, looks in (("/v1/components", False), ("/v1/components/c", True)):
        statements.clear()
        assert (await client.get(path, params={"at": token})).status_code == 200
        assert any("component_signals" in statement for statement in statements) == looks


async def test_one_component_looks_at_so_many_signals(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were last seen, by now; all else of it is as it was."""
    monkeypatch.setattr(state, "MOST", 5)
    for number in range(60):
        memory.log.append(
            e.Signal(component="c", kind="metric", name=f"n{number % 20:02}", value=1.0), partition=number % 2
        )
    start: dict[Place, int | None] = dict.fromkeys(memory.log.ends)
    store.apply("components", 1, memory.log.entries, start, memory.log.ends)
    token = encode(position_of([memory.log.ends]))
    now = (await client.get("/v1/components/c")).json()
    then = (await client.get("/v1/components/c", params={"at": token})).json()
    assert (now.pop("last_signals")[:5], now) == (then.pop("last_signals"), then)


async def test_the_next_page_reads_no_records(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient
) -> None:
    """A cut's records are read once; other cuts are kept beside it up to so many bytes."""
    grown(memory.log, store, 60)
    cut = {place: end - 3 for place, end in memory.log.ends.items()}
    params: dict[str, Any] = {"limit": 5, "at": encode(position_of([cut]))}
    for _ in range(3):
        params["cursor"] = (await client.get("/v1/runs", params=params)).json()["next"]
    assert memory.readings == 1


@pytest.mark.parametrize(("most", "cuts"), [({"KEPT_BYTES": 40_000}, 30), ({"KEPT_CUTS": 4}, 5)])
async def test_kept_cuts_take_so_many_bytes(
    store: Store, memory: MemoryLog, monkeypatch: pytest.MonkeyPatch, most: dict[str, int], cuts: int
) -> None:
    """What was asked for longest ago is let go where the limit, or their number, is reached; the last one stays."""
    grown(memory.log, store, 60)
    past = asking.Past(store, memory)
    for name, value in most.items():
        monkeypatch.setattr(asking, name, value)
    for back in range(30):
        cut = {p: end - back for p, end in memory.log.ends.items()}
        await past.ask(["runs"], cut, lambda _: None)
        assert sum(k.size for k in list(past._known.values())[:-1]) <= most.get("KEPT_BYTES", 2**20)
    assert 1 < len(past._known) < cuts


async def test_kept_cuts_are_counted_as_what_they_take(store: Store, memory: MemoryLog) -> None:
    """The count is about what memory they take: no less than half, for many small cuts as for large ones."""
    grown(memory.log, store, 400)
    past = asking.Past(store, memory)
    tracemalloc.start()
    try:
        for back in range(1, 120):
            cut = {p: end - back for p, end in memory.log.ends.items()}
            await past.ask(["runs"], cut, lambda _: None)
            if back == 20:  # statements and tables are made once
                before, start = sum(k.size for k in past._known.values()), tracemalloc.get_traced_memory()[0]
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    counted = sum(k.size for k in past._known.values()) - before
    assert taken / 2 < counted < 3 * taken


async def test_what_is_not_read_yet_is_waited_for(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient
) -> None:
    """A cut ahead of the view is answered once the view is there; where the deadline passes, 504 says by whom."""
    grown(memory.log, store, 20)
    ahead = Log(ends=dict(memory.log.ends))
    late = ahead.append(e.RunStarted(run_id="late", agent_id="a"), id="late")
    memory.log.entries.append(late)
    start, memory.log.ends = memory.log.ends, ahead.ends
    token = encode(position_of([ahead.ends]))
    answer = await client.get("/v1/runs/late", params={"at": token, "deadline_s": 0.05})
    assert (answer.status_code, answer.json()["type"]) == (504, "urn:headwater:problem:deadline-exceeded")
    assert "agent.runs" in answer.json()["detail"]
    waiting = asyncio.create_task(client.get("/v1/runs/late", params={"at": token, "deadline_s": 30}))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    place = late.topic, late.partition
    for name in ("runs", "events"):
        store.apply(name, 1, [late], {place: start[place]}, {place: ahead.ends[place]})
    assert (await waiting).json()["id"] == "late"


async def test_what_the_log_lost_is_gone(store: Store, memory: MemoryLog, client: httpx.AsyncClient) -> None:
    """Without the records beside the history there is 410, which says since when it can be asked; then it can."""
    grown(memory.log, store, 100)
    runs = ("agent.runs", 0)
    memory.begin = {runs: 2 * BUCKET + 3}
    first = next(
        n
        for n, x in enumerate(memory.log.entries)
        if (x.topic, x.partition) == runs and x.offset >= 3 * BUCKET
    )
    everything = dict(memory.log.ends)
    for at in (encode(position_of([everything | {runs: 2 * BUCKET + 5}])), shown(3), shown(first - 20)):
        answer = await client.get("/v1/runs", params={"at": at})
        assert (answer.status_code, answer.json()["type"]) == (
            410,
            "urn:headwater:problem:offset-out-of-range",
        )
        assert "agent.runs/0 begins at offset 19" in answer.json()["detail"]
        assert shown(first + 1) in answer.json()["hint"]
    answer = await client.get("/v1/runs", params={"at": shown(first + 1)})
    begun = [x for x in memory.log.entries[: first + 1] if isinstance(x.event, e.RunStarted)]
    assert (answer.status_code, len(answer.json()["items"])) == (200, len(begun))
    memory.begin = {runs: 4 * BUCKET}  # nothing tells whether what is gone was before
    assert (await client.get("/v1/runs", params={"at": shown(first)})).status_code == 410


async def test_what_is_gone_holds_up_nobody(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient
) -> None:
    """While one question waits for the time since which it can be asked, others are answered; it has its deadline."""
    grown(memory.log, store, 100)
    memory.begin = {("agent.runs", 0): 2 * BUCKET}
    lost = encode(position_of([memory.log.ends | {("agent.runs", 0): BUCKET}]))
    memory.stamps.clear()
    waiting = asyncio.create_task(client.get("/v1/runs", params={"at": lost, "deadline_s": 3}))
    while not memory.within_s:  # noqa: ASYNC110 - it is asked by another task
        await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        answer = await client.get("/v1/runs", params={"at": encode(position_of([memory.log.ends]))})
    assert answer.status_code == 200
    assert not waiting.done()
    memory.stamps.set()
    assert (await waiting).status_code == 410
    assert all(0 < within_s <= 3 for within_s in memory.within_s)


async def test_a_place_that_stands_still_needs_no_records(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient
) -> None:
    """A partition whose records are all gone is still answered for at its end; not any more once it goes on."""
    grown(memory.log, store, 20)
    token = (await client.get("/v1/runs")).json()["position"]
    now = (await client.get("/v1/runs", params={"limit": 500})).json()
    memory.begin = {p: end for p, end in memory.log.ends.items() if p[0] == "agent.runs"}
    assert (await client.get("/v1/runs", params={"limit": 500, "at": token})).json() == now
    grown(memory.log, store, 2)
    assert (await client.get("/v1/runs", params={"limit": 500, "at": token})).status_code == 410


async def test_a_view_that_was_rebuilt_meanwhile_is_asked_again(store: Store, memory: MemoryLog) -> None:
    """What was kept of a cut for tables that a rebuild replaced is made anew."""
    grown(memory.log, store, 40)
    past, cut = asking.Past(store, memory), {p: end - 3 for p, end in memory.log.ends.items()}

    async def there() -> list[str]:
        return await past.ask(
            ["runs"], cut, lambda state: sorted(t.name for t in state.live.tables["runs"].values())
        )

    assert "runs_1" in await there()
    generation = store.begin_build("runs")
    ours = [x for x in memory.log.entries if x.topic == "agent.runs"]
    ends = {p: o for p, o in memory.log.ends.items() if p[0] == "agent.runs"}
    store.apply("runs", generation, ours, {}, ends)
    assert store.swap("runs", generation, ends)
    assert "runs_2" in await there()
    assert memory.readings == 2


TOKEN = encode({"agent.runs": {0: 1}})
OF_SIGNALS = encode({"signals": {0: 1}})


@pytest.mark.parametrize(
    ("path", "status", "kind", "says"),
    [
        ("/v1/runs?at=yesterday", 400, "bad-moment", "neither a time"),
        ("/v1/runs?at=2026-02-30", 400, "bad-moment", "2026-02-30"),
        ("/v1/runs?at=2026-11-22T02:00:00+01:00", 400, "bad-moment", "not a time"),
        ("/v1/runs?at=9999-01-01T00:00:00Z&deadline_s=0", 400, "bad-moment", "not come yet"),
        (f"/v1/runs?at={encode({'agent.runs': {7: 1}})}", 400, "bad-token", "no such place"),
        (f"/v1/runs?at={encode({'agent.runs': {0: 10_000}})}", 400, "bad-token", "no such place"),
        ("/v1/runs?at=", 422, "invalid-request", "query.at"),
        (f"/v1/runs?at={TOKEN}&at_least={TOKEN}", 422, "invalid-request", "exclude each other"),
        (f"/v1/runs/r?at={TOKEN}&at_least={TOKEN}", 422, "invalid-request", "exclude each other"),
        (f"/v1/events?at={TOKEN}", 422, "invalid-request", "at needs"),
        (f"/v1/anomalies?at={TOKEN}", 422, "invalid-request", "of these no past is kept"),
        (f"/v1/effects?at={TOKEN}", 422, "invalid-request", "of these no past is kept"),
        (f"/v1/views/mine?at={TOKEN}", 422, "invalid-request", "of these no past is kept"),
        (f"/v1/runs/r000005?at={TOKEN}", 404, "not-found", "r000005"),
        (f"/v1/components/d?at={OF_SIGNALS}", 404, "not-found", "'d'"),
        (f"/v1/components/c?at={TOKEN}", 400, "bad-moment", "says nothing of signals"),
        (f"/v1/runs?at={OF_SIGNALS}", 400, "bad-moment", "says nothing of agent.runs"),
        (f"/v1/runs?at={encode({})}", 400, "bad-moment", "says nothing of agent.runs"),
        (f"/v1/events?correlation_id=r000001&at={OF_SIGNALS}", 400, "bad-moment", "says nothing of agent.runs"),
        (f"/v1/agents?at={OF_SIGNALS}&cursor=garbage", 400, "bad-cursor", "cursor"),
    ],
)  # fmt: skip
async def test_bad_questions_get_a_problem(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient, path: str, status: int, kind: str, says: str
) -> None:
    """What cannot be answered about the past gets problem+json that says why."""
    grown(memory.log, store, 20)
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), (
        answer.text
    )
    assert answer.json()["type"] == f"urn:headwater:problem:{kind}"
    assert says in answer.json()["detail"]


async def test_a_token_names_topics_without_records_too(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient
) -> None:
    """A view's own token is good for ever: also once there are records of a topic that had none then.

    That of a list of runs is good for each of them, and for its events.
    """
    grown(memory.log, store, 20)
    then = (await client.get("/v1/agents")).json()
    start, number = dict(memory.log.ends), len(memory.log.entries)
    memory.log.append(e.AgentAnnounced(agent_id="b", role="r", version="1", capabilities=[], models=[]))
    (place,) = memory.log.ends.keys() - start.keys()
    for name in ("agents", "events"):
        store.apply(name, 1, memory.log.entries[number:], {place: None}, {place: 1})
    for _ in range(2):
        answer = await client.get("/v1/agents", params={"at": then["position"]})
        assert answer.json() == then
        then = answer.json()
    assert (await client.get("/v1/agents", params={"at": OF_SIGNALS})).status_code == 400
    of_runs = (await client.get("/v1/runs")).json()["position"]
    for path in ("/v1/runs/r000001?", "/v1/events?correlation_id=r000001&"):
        assert (await client.get(f"{path}at={of_runs}")).status_code == 200


async def test_a_time_that_comes_within_the_deadline_is_waited_for(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient
) -> None:
    """Who asks for the present is answered, though his clock is a little ahead."""
    grown(memory.log, store, 20)
    at = datetime.now(UTC) + timedelta(seconds=0.5)
    answer = await client.get("/v1/runs", params={"at": at.isoformat()})
    assert answer.status_code == 200
    assert datetime.now(UTC) >= at
    assert len(answer.json()["items"]) == 20


async def test_without_a_log_the_past_is_not_kept(store: Store) -> None:
    """An application that gives no log says that it cannot tell."""
    async with client_of(store) as client:
        answer = await client.get("/v1/runs", params={"at": TOKEN})
        assert (answer.status_code, answer.json()["hint"]) == (400, "leave `at` out")


async def test_projects_do_not_see_each_others_past(
    store: Store, memory: MemoryLog, client: httpx.AsyncClient
) -> None:
    """A project's past is its own, in lists as one by one."""
    grown(memory.log, store, 20)
    log, start = memory.log, dict(memory.log.ends)
    log.append(e.RunStarted(run_id="theirs", agent_id="z"), project="other", at=BEGIN)
    ends = {p: o for p, o in log.ends.items() if start.get(p) != o}
    for name in ("runs", "events"):
        store.apply(name, 1, log.entries[-1:], {p: start[p] for p in ends}, ends)
    token = encode(position_of([log.ends]))
    theirs = (await client.get("/v1/runs", params={"at": token, "project": "other"})).json()
    assert [item["id"] for item in theirs["items"]] == ["theirs"]
    assert (await client.get("/v1/runs/theirs", params={"at": token})).status_code == 404
