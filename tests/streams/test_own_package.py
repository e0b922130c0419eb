"""A user's package on a running instance: its events pass everywhere ours do."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas import catalog
from streams.keys import admin_key
from streams.sdk import Headwater
from tests.conftest import free_base_port
from tests.packages import Packages
from tests.streams.instances import Instance, until

EVENTS = '''\
from typing import Annotated

from pydantic import Field

from schemas.events import Event, Name
from schemas.topics import Topic


class TicketOpened(Event):
    """A customer wants something."""

    customer: Name
    text: Annotated[str, Field(description="What he wrote.")] = ""


class TicketFiled(Event):
    """A ticket is with its customer's others."""

    customer: Name
    text: str = ""


class TicketsPiledUp(Event):
    """A customer has opened three tickets more."""

    customer: Name
    tickets: int


OPENED = Topic("acme.opened", "raw", {TicketOpened: "customer"}, "what customers want")
FILED = Topic("acme.filed", "keyed", {TicketFiled: "customer"}, "the same, by customer")
PILES = Topic("acme.piles", "derived", {TicketsPiledUp: "customer"}, "who wants much")
TOPICS = (OPENED, FILED, PILES)
'''
FOLDS = """\
import msgspec

from acme.events import FILED, OPENED, TicketFiled, TicketOpened, TicketsPiledUp
from processors.fold import Fold


class File(Fold[None]):
    name = "acme-file"
    topics = (OPENED,)
    accepts = (TicketOpened,)
    emits = (TicketFiled,)

    def on_event(self, state, event, at):
        yield TicketFiled(customer=event.customer, text=event.text)


class Seen(msgspec.Struct):
    tickets: int = 0


class Pile(Fold[Seen]):
    name = "acme-pile"
    topics = (FILED,)
    accepts = (TicketFiled,)
    emits = (TicketsPiledUp,)
    state = Seen

    def initial(self, key):
        return Seen()

    def on_event(self, state, event, at):
        if event.text == "poison":
            raise ValueError("poison")
        state.tickets += 1
        if state.tickets % 3 == 0:
            yield TicketsPiledUp(customer=event.customer, tickets=state.tickets)
"""
REACTORS = """\
from pathlib import Path

from acme.events import PILES, TicketsPiledUp
from streams.reactors.reactor import Done, Effect, Reactor


class Pager(Reactor):
    name = "acme-pager"
    topics = (PILES,)
    accepts = (TicketsPiledUp,)

    async def open(self, settings):
        self.file = settings.data / "paged"

    def effects(self, event, envelope, at):
        yield Effect("", event.customer)

    async def perform(self, call):
        with self.file.open("a") as file:
            file.write(f"{call.event.customer} {call.event.tickets}\\n")
        return Done("paged")
"""
POINTS = """\
headwater.events.acme = acme.events:TOPICS
headwater.folds.file = acme.folds:File
headwater.folds.pile = acme.folds:Pile
headwater.reactors.pager = acme.reactors:Pager
"""


@pytest.fixture
def instance(packages: Packages, tmp_path: Path) -> Iterator[Instance]:
    """A running instance that has the package."""
    packages.install("acme", POINTS, {"acme.events": EVENTS, "acme.folds": FOLDS, "acme.reactors": REACTORS})
    packages.lock("acme.events")
    one = Instance(tmp_path / "data", free_base_port())
    one.environment |= packages.environment
    try:
        one.start()
        yield one
    finally:
        one.end()


@pytest.fixture
def http(instance: Instance) -> Iterator[httpx.Client]:
    """A client of its API with all rights."""
    headers = {"Authorization": f"Bearer {admin_key(instance.settings)}"}
    with httpx.Client(base_url=instance.settings.api_url, headers=headers, timeout=30) as client:
        yield client


def found(http: httpx.Client, **filters: Any) -> list[dict[str, Any]]:
    """Events of the view."""
    answer = http.get("/v1/events", params=filters)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_own_events_pass_everywhere(instance: Instance, http: httpx.Client, packages: Packages) -> None:
    """SDK, HTTP, command line, views, waiting, tail, replay, dead letters, reactors, documents; then without it."""
    opened = catalog.event_types()["TicketOpened"]

    async def emit() -> None:
        async with Headwater(instance.settings) as hw:
            emitted = await hw.emit(opened(customer="anna", text="1"))  # type: ignore[call-arg]
            assert emitted.topic == "acme.opened"

    asyncio.run(emit())
    posted = http.post("/v1/events", json={"type": "TicketOpened", "data": {"customer": "anna", "text": "2"}})
    assert posted.json()["items"][0]["topic"] == "acme.opened"
    wrong = http.post("/v1/events", json={"type": "TicketOpened", "data": {"client": "anna"}}).json()
    assert "GET /registry/subjects/acme.TicketOpened/versions/latest" in wrong["hint"]
    refused = http.post(
        "/v1/events", json={"type": "TicketsPiledUp", "data": {"customer": "a", "tickets": 1}}
    )
    assert "is written by Headwater alone: topic acme.piles is derived" in refused.json()["detail"]
    line = instance.run("produce", "TicketOpened", "--data", '{"customer": "anna", "text": "3"}')
    assert line.returncode == 0, line.stderr

    last = http.post(
        "/v1/events", json={"type": "TicketOpened", "data": {"customer": "ben", "text": "poison"}}
    )
    (pile,) = found(http, type="TicketsPiledUp", at_least=last.json()["position"])
    assert (pile["topic"], pile["key"], pile["data"]) == (
        "acme.piles",
        "anna",
        {"customer": "anna", "tickets": 3},
    )
    assert pile["source"] == "headwater/folds/acme-pile"
    assert [e["data"]["text"] for e in found(http, topic="acme.opened", key="anna")] == ["1", "2", "3"]

    paged = instance.settings.data / "paged"
    until(lambda: paged.exists() and paged.read_text() == "anna 3\n", 30)
    documents(instance, http)
    keys(instance, http)
    dead_letter(instance, http)
    captured(instance, http)
    removed(instance, http, packages)


def documents(instance: Instance, http: httpx.Client) -> None:
    """What may be posted, the registry, topology and topics know the types."""
    known = http.get("/openapi.json").json()["components"]["schemas"]
    assert "PostedTicketOpened" in known["PostedEvent"]["discriminator"]["mapping"]["TicketOpened"]
    assert known["TicketOpened"]["properties"]["text"]["description"] == "What he wrote."
    latest = http.get("/registry/subjects/acme.TicketOpened/versions/latest").json()
    assert latest["id"] >= 2**30
    assert json.loads(latest["schema"])["namespace"] == "acme"
    rows = {r["fold"]: r for r in json.loads(instance.run("topology", "--json").stdout)}
    assert rows["acme-pile v1"]["changelog"] == ["acme.filed.changelog"]
    assert rows["acme-pile v1"]["package"] == "acme 1.0"
    topics = {r["topic"]: r for r in json.loads(instance.run("topics", "list", "--json").stdout)}
    assert topics["acme.opened"]["in_kafka"] == topics["acme.opened"]["partitions"] == 2
    told = instance.run("doctor")
    assert "package acme 1.0: adds topics acme.events:TOPICS" in told.stdout
    assert told.returncode == 0, told.stdout


def keys(instance: Instance, http: httpx.Client) -> None:
    """A key may be limited to the package's raw topic."""
    made = instance.run("keys", "create", "desk", "--project", "p", "--scope", "produce:acme.opened")
    own = {"Authorization": f"Bearer {made.stdout.strip()}"}
    ours = {"type": "TicketOpened", "data": {"customer": "cleo"}}
    assert http.post("/v1/events", json=ours, headers=own).status_code == 200
    other = {"type": "MetricReported", "data": {"component": "c", "name": "n", "value": 1}}
    assert http.post("/v1/events", json=other, headers=own).status_code == 403


def dead_letter(instance: Instance, http: httpx.Client) -> None:
    """What the fold raised on is kept, and given again on demand."""
    (letter,) = http.get("/v1/dead-letters", params={"fold": "acme-pile"}).json()["items"]
    assert (letter["of_topic"], letter["error_message"]) == ("acme.filed", "poison")
    where = [letter["of_topic"], str(letter["of_partition"]), str(letter["of_offset"])]
    again = instance.run("dead-letters", "replay", *where)
    assert "given again as acme.filed/" in again.stdout, again.stderr


def captured(instance: Instance, http: httpx.Client) -> None:
    """Tailed lines are replayed into another project, and come to the same there."""
    tail = instance.run("tail", "--no-follow", "--json", "--project", "default", "acme.opened", "acme.piles")
    file = instance.settings.data / "captured.jsonl"
    file.write_text(tail.stdout)
    assert len(tail.stdout.splitlines()) == 5
    replayed = instance.run("replay", "events", str(file), "--project", "again")
    assert "4 events into project again" in replayed.stderr, replayed.stderr
    assert "1 TicketsPiledUp passed over" in replayed.stderr
    until(lambda: len(found(http, project="again", type="TicketsPiledUp")) == 1, 30)


def removed(instance: Instance, http: httpx.Client, packages: Packages) -> None:
    """Without the package everything starts; nothing of it is a dead letter, and doctor says what is missing."""
    token = http.get("/v1/events").json()["position"]
    instance.end()
    packages.remove("acme")
    instance.start()
    letters = http.get("/v1/dead-letters", params={"fold": "acme-pile"}).json()["items"]
    assert len(letters) == 2, "poison, and its replay"
    all_letters = http.get("/v1/dead-letters").json()["items"]
    assert len(all_letters) == 2
    assert len(found(http, type="TicketsPiledUp")) == 1, "views keep what they have read"
    answer = http.get("/v1/events")
    assert http.get("/v1/events", params={"at_least": answer.json()["position"]}).status_code == 200
    stale = http.get("/v1/events", params={"at_least": token})
    assert stale.status_code == 400
    assert "there is no topic acme." in stale.json()["detail"]
    told = instance.run("doctor")
    assert "given by package acme: not installed here" in told.stdout
    refused = http.post("/v1/events", json={"type": "TicketOpened", "data": {"customer": "anna"}})
    assert refused.status_code == 422


def test_up_says_which_package_is_broken(packages: Packages, tmp_path: Path) -> None:
    """Instead of running without a fold it ends, with the package's name and what to do."""
    packages.install("acme", POINTS, {"acme.events": EVENTS, "acme.folds": "1 / 0\n"})
    packages.lock("acme.events")
    one = Instance(tmp_path / "data", free_base_port())
    run = subprocess.run(
        [sys.executable, "-m", "streams", "up", "--no-simulate", "--plain"],
        env=one.environment | packages.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 1
    assert "package acme 1.0: acme.folds:File cannot be imported: ZeroDivisionError" in run.stderr
    assert "pip uninstall acme" in run.stderr
