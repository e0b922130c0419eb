"""The query API at a cut answers as it would have then."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from projections.agents import Agents
from projections.catalog import views
from projections.components import Components
from projections.events import Events
from projections.past.cut import shown
from projections.position import decode, encode, position_of
from projections.runs import Runs
from projections.store import Store
from projections.view import Place
from schemas import events as e
from tests.conftest import BACKENDS, database_factory
from tests.projections.material import BEGIN, Log, busy_log, feed, interleaved, store_at
from tests.projections.past.memory import MemoryLog, before, client_of

PATHS = ("components", "agents", "runs")


@dataclass(frozen=True)
class Then:
    """A log that went on after a moment: a token and a time for it, and a client of a view that was given no more."""

    tokens: tuple[str, str]
    cut: dict[Place, int]
    now: httpx.AsyncClient
    then: httpx.AsyncClient


@pytest.fixture(scope="module")
def log() -> Log:
    """A log without copies astray: which of those counts is not told by the log."""
    return busy_log(5, events=600, astray=False)


@pytest.fixture(scope="module", params=BACKENDS)
def live(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, log: Log
) -> Iterator[Store]:
    """A store that has read all of it, in an order of its own."""
    store = store_at(database_factory(request, tmp_path_factory.mktemp("live"))(), views())
    feed(store, interleaved(log.entries, 8), log.ends, batch=90)
    yield store
    store.close()


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["a time early", "a time late", "any cut"])
def then(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, log: Log, live: Store
) -> Iterator[Then]:
    """Two moments of the log, and a cut that was never one."""
    chance = random.Random(request.param)
    cut = {place: chance.randrange(end + 1) for place, end in log.ends.items()}
    at = ""
    if request.param < 2:
        number = (200, 450)[request.param]
        cut = {(x.topic, x.partition): x.offset + 1 for x in log.entries[:number]}
        # Where the next offset is a marker's, nothing lies between.
        later = {(x.topic, x.partition): x.offset for x in reversed(log.entries[number:])}
        cut = {
            place: later.get(place, log.ends[place])
            for place in log.ends
            if place in cut or not later.get(place)
        }
        cut = {place: offset for place, offset in cut.items() if offset}
        at = shown(number)
    cut = {place: offset for place, offset in cut.items() if offset}
    fresh = store_at(f"sqlite:///{tmp_path_factory.mktemp('then') / 'views.sqlite'}", views())
    feed(fresh, before(log, cut), cut)
    token = encode(position_of([dict.fromkeys(log.ends, 0) | cut]))  # it names every topic
    yield Then((token, at or token), cut, client_of(live, MemoryLog(log)), client_of(fresh))
    fresh.close()


QUESTIONS: dict[str, list[dict[str, Any]]] = {
    "components": [{}, {"limit": 2}, {"kind": "tool"}, {"prefix": "agent:agent-1", "limit": 1}],
    "agents": [{}, {"limit": 4}, {"status": "retired"}, {"prefix": "agent-1"}, {"status": "active", "limit": 1}],
    "runs": [
        {}, {"limit": 3}, {"status": "finished", "limit": 2}, {"outcome": "failure"}, {"agent": "agent-3"},
        {"since": "2023-11-14T22:20:00Z"}, {"until": "2023-11-14T22:20:00Z", "limit": 4},
    ],
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_lists_are_those_of_then(then: Then, path: str) -> None:
    """Every page, filter, order, cursor and position is that of a view which was given no more."""
    found = 0
    for question, project, token in itertools.product(QUESTIONS[path], ("default", "other"), then.tokens):
        cursor: dict[str, str] = {}
        while True:
            params = {"project": project, **question, **cursor}
            was = (await then.then.get(f"/v1/{path}", params=params)).json()
            told = await then.now.get(f"/v1/{path}", params=params | {"at": token})
            assert told.json() == was, (question, project)
            found += len(was["items"])
            if was["next"] is None:
                break
            cursor = {"cursor": was["next"]}
    assert found > 20


@pytest.mark.parametrize("path", PATHS)
async def test_one_is_as_it_was_then(then: Then, path: str) -> None:
    """Each item with its details, a run's timeline among them; what was not there yet is not found."""
    now = (await then.now.get(f"/v1/{path}", params={"limit": 500})).json()["items"]
    for item in now:
        was = await then.then.get(f"/v1/{path}/{item['id']}")
        told = await then.now.get(f"/v1/{path}/{item['id']}", params={"at": then.tokens[1]})
        assert (told.status_code, told.json()) == (was.status_code, was.json())


async def test_a_timeline_goes_on_at_the_same_cut(then: Then) -> None:
    """The rest of a timeline comes from the events, cut as well; so do a partition's events."""
    params: dict[str, Any] = {"limit": 2, "at": then.tokens[0]}
    for run in [f"run-{n}" for n in range(12)]:
        told = await then.now.get(f"/v1/runs/{run}", params=params)
        if told.status_code == 404 or told.json()["timeline_next"] is None:
            continue
        rest = {"correlation_id": run, "cursor": told.json()["timeline_next"]}
        was = (await then.then.get("/v1/events", params=rest)).json()
        assert (await then.now.get("/v1/events", params=rest | {"at": then.tokens[0]})).json() == was
    place: dict[str, Any] = {"topic": "agent.tool-calls", "partition": 1}
    was = (await then.then.get("/v1/events", params=place)).json()
    assert (await then.now.get("/v1/events", params=place | {"at": then.tokens[1]})).json() == was
    assert was["items"]


async def test_the_position_is_the_cut(then: Then) -> None:
    """An answer's position is the cut, as far as its views read it; asked with it, the answer is the same."""
    for path in PATHS:
        told = (await then.now.get(f"/v1/{path}", params={"at": then.tokens[1]})).json()
        read = {t: position_of([then.cut]).get(t, {}) for t in decode(told["position"])}
        assert decode(told["position"]) == read
        assert (await then.now.get(f"/v1/{path}", params={"at": told["position"]})).json() == told


async def test_pages_of_one_moment(tmp_path: Path) -> None:
    """Turned at the first page's position, pages show one moment, whatever comes in between."""
    log = Log()
    for number in range(30):
        log.append(e.RunStarted(run_id=f"r{number:02}", agent_id="a"), partition=number % 2)
    store = store_at(f"sqlite:///{tmp_path / 'views.sqlite'}", [Runs(), Events(), Components(), Agents()])
    feed(store, log.entries, log.ends)
    memory = MemoryLog(log)
    client = client_of(store, memory)
    first = (await client.get("/v1/runs", params={"limit": 10})).json()
    seen, cursor = [item["id"] for item in first["items"]], first["next"]
    while cursor:
        more = Log(ends=dict(log.ends))
        for number in range(5):
            late = more.append(
                e.RunStarted(run_id=f"r{number:02}", agent_id="b"), id=f"{cursor}{number}", at=BEGIN - 1
            )
            log.entries.append(late)
        start = dict(log.ends)
        log.ends |= more.ends
        store.apply("runs", 1, more.entries, {p: start[p] for p in more.ends}, more.ends)
        page = (
            await client.get("/v1/runs", params={"limit": 10, "cursor": cursor, "at": first["position"]})
        ).json()
        seen, cursor = seen + [item["id"] for item in page["items"]], page["next"]
    assert seen == [f"r{number:02}" for number in reversed(range(30))]
