"""The query API, through the ASGI app over a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import schemathesis
from fastapi import FastAPI, Header, HTTPException
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from projections.access import Caller
from projections.api import create_router
from projections.api.events import item_of
from projections.catalog import views
from projections.position import BadToken, Position, decode, encode
from projections.problem import install
from projections.store import Store
from projections.view import Entry
from schemas import events as e
from schemas.errors import DeadlineExceeded
from tests.conftest import BACKENDS, NewDatabase, database_factory
from tests.projections.material import Log, busy_log, feed, store_at
from tests.projections.past.memory import MemoryLog

ADMIN = "*"
LISTS = ("components", "agents", "runs", "anomalies", "dead-letters", "events")


def app_of(store: Store, log: MemoryLog | None = None) -> FastAPI:
    """An application as the gateway builds it; the header `x-project` stands for the key."""
    app = FastAPI()
    waited: list[tuple[Position, str, float]] = []
    app.state.waited = waited

    def caller(x_project: str = Header(ADMIN), x_scopes: str = Header("read")) -> Caller:
        if x_project == "nobody":
            raise HTTPException(401, "no such key", {"WWW-Authenticate": "Bearer"})
        return Caller(x_project, frozenset(x_scopes.split()))

    async def wait_for(position: Position, view: str, deadline_s: float) -> None:
        waited.append((position, view, deadline_s))
        if "never" in position:
            raise DeadlineExceeded("not in time", hint="later")
        if "nowhere" in position:
            raise BadToken("no such topic")

    app.include_router(create_router(store, caller, wait_for, log=log))
    install(app)
    return app


def filled(url: str, log: Log | None = None) -> Store:
    """A database of views that have read something of everything."""
    log = log or busy_log(events=700)
    store = store_at(url, views())
    feed(store, log.entries, log.ends)
    return store


@pytest.fixture(scope="module", params=BACKENDS)
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The application over a store that has read the log; for tests that change nothing."""
    log = busy_log(events=700)
    store = filled(database_factory(request, tmp_path_factory.mktemp("filled"))(), log)
    app = app_of(store, MemoryLog(log))
    app.state.store = store
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application."""
    app.state.waited.clear()
    async with client_of(app) as client:
        yield client


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """A client of an application."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def everything(client: httpx.AsyncClient, path: str, **params: Any) -> list[dict[str, Any]]:
    """All pages of a list."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = params | ({"cursor": cursor} if cursor else {})
        answer = await client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        found += body["items"]
        cursor = body["next"]
        if cursor is None:
            return found


@pytest.mark.parametrize("path", LISTS)
async def test_pages_make_the_whole(client: httpx.AsyncClient, path: str) -> None:
    """Turning pages of any size gives each item once, in the order of one large page."""
    whole = await everything(client, f"/v1/{path}", limit=500)
    assert len(whole) > 2
    assert await everything(client, f"/v1/{path}", limit=3) == whole
    assert len({str(item) for item in whole}) == len(whole)


async def test_what_comes_in_between_moves_no_page(new_database: NewDatabase) -> None:
    """Rows inserted while pages are turned neither repeat nor hide those that were there."""
    store = filled(new_database())
    async with client_of(app_of(store)) as client:
        before = {item["id"] for item in await everything(client, "/v1/events", order="newest")}
        first = (await client.get("/v1/events", params={"limit": 100, "order": "newest"})).json()
        more = Log()
        for number in range(50):
            more.append(e.MessagePosted(agent_id="z", role="user", content="x"), id=f"new-{number}", at=2e9)
        store.apply("events", 1, more.entries, {}, {})
        rest = await everything(client, "/v1/events", order="newest", cursor=first["next"])
    seen = [item["id"] for item in [*first["items"], *rest]]
    assert len(seen) == len(set(seen))
    assert set(seen) == before


@pytest.mark.parametrize(
    ("path", "filters", "holds"),
    [
        ("components", {"prefix": "tool:"}, lambda i: i["id"].startswith("tool:")),
        ("components", {"kind": "model"}, lambda i: i["kind"] == "model"),
        ("agents", {"prefix": "agent-1"}, lambda i: i["id"].startswith("agent-1")),
        ("agents", {"status": "retired"}, lambda i: i["status"] == "retired"),
        ("agents", {"status": "active"}, lambda i: i["status"] == "active"),
        ("runs", {"outcome": "failure"}, lambda i: i["outcome"] == "failure"),
        ("runs", {"status": "finished"}, lambda i: i["outcome"] is not None),
        ("runs", {"agent": "agent-9"}, lambda i: i["agent_id"] == "agent-9"),
        ("anomalies", {"severity": "critical"}, lambda i: i["severity"] == "critical"),
        ("anomalies", {"component": "tool:search"}, lambda i: i["component"] == "tool:search"),
        ("dead-letters", {"topic": "agent.errors"}, lambda i: i["of_topic"] == "agent.errors"),
        ("events", {"type": "ToolCallFailed"}, lambda i: i["type"] == "ToolCallFailed"),
        ("events", {"topic": "agent.runs"}, lambda i: i["topic"] == "agent.runs"),
        ("events", {"key": "agent-3"}, lambda i: i["key"] == "agent-3"),
        ("events", {"correlation_id": "run-3"}, lambda i: i["correlation_id"] == "run-3"),
        (
            "events",
            {"correlation_id": "run-10", "type": "MessagePosted", "topic": "agent.messages"},
            lambda i: i["correlation_id"] == "run-10" and i["type"] == "MessagePosted",
        ),
        ("events", {"producer_key": "key-3"}, lambda i: i["producer_key"] == "key-3"),
        (
            "events",
            {"producer_key": "key-4", "topic": "agent.runs"},
            lambda i: i["producer_key"] == "key-4" and i["topic"] == "agent.runs",
        ),
        (
            "events",
            {"topic": "agent.runs", "partition": 1, "offset": 20},
            lambda i: i["topic"] == "agent.runs" and i["partition"] == 1 and i["offset"] >= 20,
        ),
        (
            "events",
            {"since": "2023-11-14T22:20:00Z", "until": "2023-11-14T22:25:00"},
            lambda i: "2023-11-14T22:20:00" <= i["time"] < "2023-11-14T22:25:00",
        ),
    ],
)
async def test_filters_leave_what_they_say(
    client: httpx.AsyncClient, path: str, filters: dict[str, Any], holds: Any
) -> None:
    """A filtered list is exactly the part of the whole list for which the filter holds."""
    whole = await everything(client, f"/v1/{path}")
    found = await everything(client, f"/v1/{path}", limit=7, **filters)
    assert sorted(map(str, found)) == sorted(str(item) for item in whole if holds(item))
    assert 0 < len(found) < len(whole) or path == "dead-letters"


async def test_events_by_offset_come_in_the_logs_order(client: httpx.AsyncClient) -> None:
    """With a partition given, events are in the order of their offsets."""
    found = await everything(client, "/v1/events", topic="agent.tool-calls", partition=0, limit=5)
    offsets = [item["offset"] for item in found]
    assert offsets == sorted(offsets)
    assert len(offsets) > 10


async def test_a_component_is_shown_with_its_signals(client: httpx.AsyncClient) -> None:
    """An id with a colon finds its component: rates, quantiles with their error, and last signals."""
    body = (await client.get("/v1/components/tool:search")).json()
    assert body["id"] == "tool:search"
    assert body["error_rate"] == body["failures"] / body["calls"]
    latency = body["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert latency["relative_error"] == 0.01
    assert {"call", "error"} <= {signal["kind"] for signal in body["last_signals"]}
    assert decode(body["position"])["signals"]


@pytest.mark.parametrize("id_", ["tool:a/b", "tool:ünï", "tool:a b?c#d", "/", "a/../b", "%2F"])
async def test_any_id_can_be_asked_for(new_database: NewDatabase, id_: str) -> None:
    """Ids with slashes, spaces, question marks and letters of all kinds find their component."""
    from urllib.parse import quote

    log = Log()
    log.append(e.Signal(component=id_, kind="metric", name="x", value=1.0))
    store = store_at(new_database(), views())
    feed(store, log.entries, log.ends)
    async with client_of(app_of(store)) as client:
        answer = await client.get(f"/v1/components/{quote(id_, safe='')}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == id_
        assert answer.json()["latency_ms"] is None


async def test_a_run_is_shown_with_its_timeline(client: httpx.AsyncClient) -> None:
    """A run's timeline has all events of its correlation id, by time, and goes on as a list of events."""
    whole = await everything(client, "/v1/events", correlation_id="run-5")
    body = (await client.get("/v1/runs/run-5", params={"limit": 4})).json()
    assert [item["id"] for item in body["timeline"]] == [item["id"] for item in whole[:4]]
    rest = await everything(client, "/v1/events", correlation_id="run-5", cursor=body["timeline_next"])
    assert [item["id"] for item in rest] == [item["id"] for item in whole[4:]]
    assert body["messages"] == sum(item["type"] == "MessagePosted" for item in whole)
    assert body["anomalies"] == sum(item["type"] == "AnomalyDetected" for item in whole)


async def test_every_answer_says_what_it_reflects(client: httpx.AsyncClient, app: FastAPI) -> None:
    """The position of a list is that of its view, with every topic; that of a run what its row and timeline share."""
    for path in LISTS:
        body = (await client.get(f"/v1/{path}")).json()
        name = path.replace("-", "_")
        _, offsets = app.state.store.live(name)
        assert decode(body["position"]) == {
            topic.name: {p: o for (t, p), o in offsets.items() if t == topic.name}
            for topic in app.state.store.views[name].topics
        }


async def test_at_least_is_waited_for(client: httpx.AsyncClient, app: FastAPI) -> None:
    """A token is given to the waiting side, once for each view that the answer is made of."""
    token = encode({"agent.runs": {0: 3}})
    await client.get("/v1/runs/run-1", params={"at_least": token, "deadline_s": 2})
    assert [(p, v) for p, v, _ in app.state.waited] == [
        ({"agent.runs": {0: 3}}, "runs"),
        ({"agent.runs": {0: 3}}, "events"),
    ]
    assert all(1.5 < seconds <= 2 for _, _, seconds in app.state.waited)


@pytest.mark.parametrize(
    ("path", "status", "kind", "says"),
    [
        ("/v1/events?limit=0", 422, "invalid-request", "query.limit"),
        ("/v1/events?limit=501", 422, "invalid-request", "query.limit"),
        ("/v1/events?since=yesterday", 422, "invalid-request", "query.since"),
        ("/v1/events?correlationid=r", 422, "invalid-request", "query.correlationid"),
        ("/v1/events?partition=1", 422, "invalid-request", "partition needs a topic"),
        ("/v1/events?topic=a&offset=1", 422, "invalid-request", "offset needs"),
        ("/v1/events?topic=a&partition=0&offset=9223372036854775808", 422, "invalid-request", "offset"),
        ("/v1/anomalies?severity=bad", 422, "invalid-request", "query.severity"),
        ("/v1/events?cursor=garbage", 400, "bad-cursor", "cursor"),
        ("/v1/events?cursor=W10", 400, "bad-cursor", "cursor"),
        ("/v1/events?at_least=garbage", 400, "bad-token", "token"),
        (f"/v1/events?at_least={encode({'nowhere': {0: 1}})}", 400, "bad-token", "topic"),
        (f"/v1/events?at_least={encode({'never': {0: 1}})}", 504, "deadline-exceeded", "in time"),
        ("/v1/components/tool:none", 404, "not-found", "tool:none"),
        ("/v1/agents/none", 404, "not-found", "none"),
        ("/v1/runs/none", 404, "not-found", "none"),
        ("/v1/nothing", 404, "not-found", "Not Found"),
        ("/v1/events?project=", 422, "invalid-request", "query.project"),
        ("/v1/events?last_event_id=x", 422, "invalid-request", "query.last_event_id"),
    ],
)
async def test_bad_questions_get_a_problem(
    client: httpx.AsyncClient, path: str, status: int, kind: str, says: str
) -> None:
    """A question that cannot be answered gets problem+json that says what is wrong and where."""
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:headwater:problem:{kind}"
    assert body["status"] == status
    assert says in body["detail"]
    assert body["instance"] == path.partition("?")[0]


async def test_a_guessed_parameter_is_answered_with_those_there_are(client: httpx.AsyncClient) -> None:
    """Who filters by a name that the call does not have is told the names that it has."""
    answer = (await client.get("/v1/runs", params={"agent_id": "a"})).json()
    assert answer["errors"][0]["where"] == "query.agent_id"
    assert {"agent", "outcome"} <= set(answer["hint"].removeprefix("it takes ").partition(";")[0].split(", "))


async def test_a_cursor_is_of_its_filters_and_list(client: httpx.AsyncClient) -> None:
    """A cursor is refused for other filters, another list, or another project."""
    page = (await client.get("/v1/events", params={"limit": 2, "topic": "agent.runs"})).json()
    for params in ({"topic": "agent.messages"}, {}, {"topic": "agent.runs", "project": "other"}):
        answer = await client.get("/v1/events", params=params | {"cursor": page["next"]})
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:headwater:problem:bad-cursor")
    answer = await client.get("/v1/runs", params={"cursor": page["next"]})
    assert answer.status_code == 400


async def test_projects_do_not_see_each_other(client: httpx.AsyncClient) -> None:
    """A project's key sees its own items only; another's project, or one not existing, is refused."""
    for path in LISTS:
        own = await everything(client, f"/v1/{path}", project="other")
        client.headers["x-project"] = "other"
        assert await everything(client, f"/v1/{path}") == own
        answer = await client.get(f"/v1/{path}", params={"project": "default"})
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:headwater:problem:forbidden")
        client.headers["x-project"] = "third"
        assert await everything(client, f"/v1/{path}") == []
        client.headers["x-project"] = ADMIN
    events = await everything(client, "/v1/events", project="other")
    assert {item["project"] for item in events} == {"other"}
    client.headers["x-project"] = "third"
    assert (await client.get("/v1/runs/run-1")).status_code == 404


async def test_a_key_without_the_right_to_read_is_refused(client: httpx.AsyncClient) -> None:
    """Without the scope `read` there is no answer; without a key the application's own refusal stands."""
    answer = await client.get("/v1/events", headers={"x-scopes": "write"})
    assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")
    answer = await client.get("/v1/events", headers={"x-project": "nobody"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["type"] == "urn:headwater:problem:unauthorized"


async def test_views_that_are_not_made_are_no_fault(new_database: NewDatabase) -> None:
    """Before the views process has run, questions get 503 and a hint, not 500."""
    async with client_of(app_of(Store(new_database(), views()))) as client:
        for path in LISTS:
            answer = await client.get(f"/v1/{path}")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "headwater views" in answer.json()["hint"]


async def test_a_broken_file_is_said(tmp_path: Path) -> None:
    """Where the file is no database any more, the answer is 503 and shows no SQL."""
    store = store_at(f"sqlite:///{tmp_path / 'views.sqlite'}", views())
    store.close()
    spoil(tmp_path)
    async with client_of(app_of(store)) as client:
        await unavailable(client)


def spoil(folder: Path) -> None:
    """Make of every file in a folder one that is no database."""
    for file in folder.iterdir():
        file.write_bytes(b"no database at all, this is" * 500)


async def unavailable(client: httpx.AsyncClient) -> None:
    """Every answer is 503 with a problem that shows no SQL, and says when to ask again."""
    for path in LISTS:
        answer = await client.get(f"/v1/{path}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:headwater:problem:database-unavailable"
        assert "select" not in answer.text.lower()


def test_the_openapi_document_is_whole(app: FastAPI) -> None:
    """OpenAPI 3.1; every operation documents its problems as problem+json, and has typed answers."""
    document = app.openapi()
    assert document["openapi"].startswith("3.1")
    assert len(document["paths"]) == 13
    for path, operations in document["paths"].items():
        responses = operations["get"]["responses"]
        assert {"200", "400", "401", "403", "422", "503", "504"} <= set(responses), path
        assert all("application/problem+json" in r["content"] for s, r in responses.items() if s != "200")
        assert "$ref" in responses["200"]["content"]["application/json"]["schema"]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_question_is_a_fault_of_the_server(app: FastAPI, mode: GenerationMode) -> None:
    """Schemathesis finds no 5xx, and no answer other than the document says, for good and bad questions."""
    schema: Any = schemathesis.openapi.from_asgi("/openapi.json", app)
    for operation in schema.get_all_operations():
        check_operation(operation.ok(), mode)


def check_operation(operation: Any, mode: GenerationMode) -> None:
    """Generate questions for one operation and check each answer."""

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        answer = case.call()
        case.validate_response(
            answer, checks=[not_a_server_error, status_code_conformance, response_schema_conformance]
        )

    check()


async def test_a_followed_event_is_the_item_of_a_page(new_database: NewDatabase) -> None:
    """What streams give for an event is, field by field, what a page gives, for odd values too."""
    log = busy_log(events=400)
    odd: dict[str, Any] = {
        "project": "odd",
        "correlation_id": "a\x00b",
        "subject": "\x00",
        "traceparent": "ü\x00",
    }
    for at in (-1e12, 1e12, 0.1 + 0.2):
        log.append(e.MessagePosted(agent_id="a\x00", role="user", content="\x00\u2028\n\r"), at=at, **odd)
    for value in (-0.0, 1e300, 5e-324):
        log.append(e.MetricReported(component="c", name="n", value=value), **odd, producer_key="\x00")
    log.append(
        e.DeadLetter(topic="t", partition=0, offset=2**63 - 1, error_type="E", value=bytes(range(256))), **odd
    )
    store = store_at(new_database(), views())
    feed(store, log.entries, log.ends)
    followed = {(i["topic"], i["partition"], i["offset"]): i for i in map(as_read, log.entries)}
    async with client_of(app_of(store)) as client:
        for project in ("default", "other", "odd"):
            items = await everything(client, "/v1/events", project=project, limit=500)
            assert len(items) > 5
            for item in items:
                assert followed[item["topic"], item["partition"], item["offset"]] == item


def as_read(entry: Entry) -> dict[str, Any]:
    """An event as a client reads it in a message."""
    read: dict[str, Any] = orjson.loads(orjson.dumps(item_of(entry)))
    return read
