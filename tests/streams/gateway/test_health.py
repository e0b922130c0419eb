"""/healthz, /readyz, /metrics and the first page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from processors.catalog import folds
from streams.admin import declared
from streams.gateway.readiness import missing
from streams.keys import create
from streams.settings import Settings
from streams.supervision.status import ProcessStatus, born

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def running(settings: Settings) -> Iterator[Settings]:
    """Status files as all processes at work would leave them."""
    counts = {spec.name: spec.partitions for spec in declared(settings)}
    partitions = sorted([t.name, p] for fold in folds() for t in fold.topics for p in range(counts[t.name]))
    say(settings, "folds", partitions=partitions)
    say(settings, "views")
    yield settings
    for path in settings.run_folder.glob("*.json"):
        path.unlink()


def say(settings: Settings, process: str, **facts: Any) -> None:
    """A process says that it runs."""
    ProcessStatus(settings, process).set("running", **facts)


def change(settings: Settings, process: str, **fields: Any) -> None:
    """Change what a process said."""
    path = settings.run_folder / f"{process}.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | fields))


async def test_healthz_needs_no_key(http: httpx.AsyncClient) -> None:
    """A probe without a key gets 200 while the process answers."""
    answer = await http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_ready(http: httpx.AsyncClient, running: Settings) -> None:
    """Every process runs and the folds have all partitions: 200."""
    assert missing(running) == []
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


async def test_nothing_runs(http: httpx.AsyncClient) -> None:
    """503 with what is missing, as a problem, and when to ask again."""
    answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "folds does not run; views does not run"
    assert [e["where"] for e in answer.json()["errors"]] == ["folds", "views"]


@pytest.mark.parametrize(
    ("process", "fields", "sentence"),
    [
        ("views", {"state": "starting"}, "views is starting"),
        ("views", {"state": "failed"}, "views is failed"),
        ("folds", {"updated": 0}, "folds has said nothing for "),
        ("views", {"pid": 2**22 + 1}, "views died"),
        ("folds", {"born": born(os.getpid()) - 100}, "folds died"),
        ("folds", {"facts": {"partitions": [["signals", 0]]}}, "folds lack"),
        ("folds", {"facts": {}}, "agent.errors/0"),
    ],
)
async def test_not_ready(running: Settings, process: str, fields: dict[str, Any], sentence: str) -> None:
    """A process that is starting, silent, dead or without its partitions is named."""
    change(running, process, **fields)
    assert sentence in "; ".join(missing(running))


async def test_workers_share_the_partitions(running: Settings) -> None:
    """Two processes of folds that have all partitions together are ready."""
    held = orjson.loads((running.run_folder / "folds.json").read_bytes())["facts"]["partitions"]
    say(running, "folds", partitions=held[::2])
    assert missing(running)
    say(running, "folds-2", partitions=held[1::2])
    assert missing(running) == []


async def test_what_is_supervised_is_expected(running: Settings) -> None:
    """What `headwater up` keeps running has to run as well, but for the simulated fleet."""
    say(running, "up", states={"folds": "running", "reactors": "restarting", "simulate": "stopped"})
    assert missing(running) == ["reactors does not run"]


async def test_kafka_away(running: Settings) -> None:
    """Without Kafka nothing is ready, whatever the processes said."""
    away = running.model_copy(update={"kafka": "127.0.0.1:1"})
    assert missing(away) == ["Kafka at 127.0.0.1:1 does not answer"]


async def test_metrics(http: httpx.AsyncClient, admin: httpx.AsyncClient, settings: Settings) -> None:
    """Prometheus text with a process label, for keys with the scope admin, also as basic's password."""
    await admin.get("/healthz")
    answer = await admin.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    line = 'headwater_http_requests_total{method="GET",process="serve",route="/healthz",status="200"}'
    assert line in answer.text
    del http.headers["Authorization"]
    assert (await http.get("/metrics")).status_code == 401
    scraper = create(settings, "acme", ["admin"], "prometheus")
    assert (await http.get("/metrics", auth=("x", scraper))).status_code == 200
    reader = create(settings, "acme", ["read"], "reader")
    answer = await http.get("/metrics", headers={"Authorization": f"Bearer {reader}"})
    assert answer.status_code == 403
    assert "admin" in answer.json()["detail"]


async def test_the_first_page(http: httpx.AsyncClient) -> None:
    """The root says where everything is, and an unknown path is a problem."""
    answer = await http.get("/")
    assert answer.status_code == 200
    assert "/docs" in answer.text
    assert (await http.get("/openapi.json")).json()["openapi"] == "3.1.0"
    answer = await http.get("/nope")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await http.put("/v1/events")).status_code == 405
