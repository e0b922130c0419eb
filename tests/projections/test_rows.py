"""Views that packages add, asked over HTTP: each project's rows, by page, filtered by column."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from sqlalchemy import Column, Connection, MetaData, Table

from projections.catalog import views
from projections.columns import BYTES, FLOAT, INTEGER, TEXT
from projections.merging import Merger, added, greatest
from projections.view import Entry, Tables, View
from schemas import events as e
from schemas.topics import MESSAGES
from tests.conftest import NewDatabase
from tests.projections.material import Log, feed, store_at
from tests.projections.test_api import app_of, client_of, everything


class Talk(View):
    """Who said how much."""

    name = "talk"
    about = "who said how much"
    topics = (MESSAGES,)

    def tables(self, metadata: MetaData, suffix: str) -> Tables:
        said = Table(
            f"talk{suffix}",
            metadata,
            Column("project", TEXT, primary_key=True),
            Column("agent_id", TEXT, primary_key=True),
            Column("length", INTEGER, primary_key=True),
            added("messages"),
            greatest("last", FLOAT),
            greatest("raw", BYTES),
        )
        alone = Table(f"talk_alone{suffix}", metadata, Column("agent_id", TEXT, primary_key=True))
        return {"talk": said, "alone": alone}

    def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
        merger = Merger(connection, tables["talk"])
        for entry in batch:
            if isinstance(entry.event, e.MessagePosted):
                key = (entry.envelope.project, entry.event.agent_id, len(entry.event.content))
                merger.add(key, {"messages": 1, "last": entry.time, "raw": entry.event.content.encode()})
        merger.write()


@pytest.fixture
async def client(new_database: NewDatabase) -> AsyncIterator[httpx.AsyncClient]:
    """The API over a store with that view, which has read messages of two projects."""
    store = store_at(new_database(), [*views(), Talk()])
    log = Log()
    for n in range(30):
        message = e.MessagePosted(agent_id=f"agent-{n % 4}", role="agent", content="x" * (n % 3))
        log.append(message, project="acme" if n % 5 else "default")
    feed(store, log.entries, log.ends)
    async with client_of(app_of(store)) as client:
        yield client
    store.close()


async def test_rows_of_a_project(client: httpx.AsyncClient) -> None:
    """All of them and nobody else's, in the order of the key, the same by pages of any size."""
    acme = {"x-project": "acme"}
    whole = (await client.get("/v1/views/talk", params={"limit": 500}, headers=acme)).json()
    assert {row["project"] for row in whole["items"]} == {"acme"}
    assert sum(row["messages"] for row in whole["items"]) == 24
    keys = [(row["agent_id"], row["length"]) for row in whole["items"]]
    assert keys == sorted(keys)
    client.headers.update(acme)
    assert await everything(client, "/v1/views/talk", limit=2) == whole["items"]
    assert whole["items"][1]["raw"] == "eA=="
    assert whole["position"]
    others = await client.get("/v1/views/talk", params={"project": "default"})
    assert others.status_code == 403


async def test_filters(client: httpx.AsyncClient) -> None:
    """Columns of text and numbers are compared as such; all filters have to hold."""
    whole = await everything(client, "/v1/views/talk")
    asked = {"where": ["agent_id=agent-1", "length=2"]}
    found = (await client.get("/v1/views/talk", params=asked)).json()["items"]
    assert found == [r for r in whole if r["agent_id"] == "agent-1" and r["length"] == 2]
    last = whole[0]["last"]
    assert (await client.get("/v1/views/talk", params={"where": f"last={last!r}"})).json()["items"]


@pytest.mark.parametrize(
    ("path", "params", "status", "says"),
    [
        ("nobody", {}, 404, "no package adds a view 'nobody'"),
        ("events", {}, 404, "no package adds a view 'events'"),
        ("talk", {"table": "shout"}, 404, "view talk has no table 'shout'"),
        ("talk", {"table": "alone"}, 404, "it needs a column project"),
        ("talk", {"where": "agent_id"}, 422, "expected column=value"),
        ("talk", {"where": "nobody=1"}, 422, "expected column=value"),
        ("talk", {"where": "length=short"}, 422, "where=length=short: invalid literal"),
        ("talk", {"where": "length=99999999999999999999"}, 422, "larger than 64 bits"),
        ("talk", {"where": "raw=x"}, 422, "it cannot be compared here"),
        ("talk", {"agent_id": "agent-1"}, 422, "agent_id"),
        ("talk", {"cursor": "x"}, 400, "not a cursor"),
    ],
)
async def test_what_cannot_be_asked(
    client: httpx.AsyncClient, path: str, params: dict[str, Any], status: int, says: str
) -> None:
    """It is a problem with what is wrong and what to do."""
    answer = await client.get(f"/v1/views/{path}", params=params)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]
    assert answer.json()["hint"]
