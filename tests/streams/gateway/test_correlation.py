"""One correlation id from door to view."""

from __future__ import annotations

import httpx
import pytest
import structlog
from starlette.datastructures import Headers

from schemas.envelope import Envelope
from streams.gateway.correlation import identify
from streams.producing.producer import Position
from streams.settings import Settings
from tests.streams.gateway.test_produce import metric
from tests.streams.test_producer import read

pytestmark = pytest.mark.asyncio(loop_scope="module")
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


async def envelope(settings: Settings, answer: httpx.Response) -> Envelope:
    """The envelope of the one event of an answer."""
    told = answer.json()["items"][0]
    place = Position(told["topic"], told["partition"], told["offset"])
    return (await read(settings, [place]))[0].envelope


async def test_a_given_id_is_taken_over(admin: httpx.AsyncClient, settings: Settings) -> None:
    """X-Correlation-Id is in the answer, in the log line and in events that have none of their own."""
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        answer = await admin.post("/v1/events", json=metric(), headers={"X-Correlation-Id": "r-1"})
    assert answer.headers["X-Correlation-Id"] == "r-1"
    assert (await envelope(settings, answer)).correlation_id == "r-1"
    (line,) = [entry for entry in lines if entry["event"] == "http.request"]
    assert line["correlation_id"] == "r-1"
    assert (line["method"], line["path"], line["status"], line["key"]) == ("POST", "/v1/events", 200, "admin")
    own = await admin.post(
        "/v1/events", json=metric(correlationid="mine"), headers={"X-Correlation-Id": "r-1"}
    )
    assert (await envelope(settings, own)).correlation_id == "mine"


async def test_an_id_is_made(admin: httpx.AsyncClient, settings: Settings) -> None:
    """Without one, a new id is made and told; errors carry it too."""
    answer = await admin.post("/v1/events", json=metric())
    made = answer.headers["X-Correlation-Id"]
    assert made
    assert (await envelope(settings, answer)).correlation_id == made
    assert (await admin.get("/nope")).headers["X-Correlation-Id"] not in ("", made)


async def test_a_trace_goes_on(admin: httpx.AsyncClient, settings: Settings) -> None:
    """The events of a traced request are spans of its trace; its id stands in for a correlation id."""
    answer = await admin.post("/v1/events", json=[metric(), metric()], headers={"traceparent": TRACE})
    assert answer.headers["X-Correlation-Id"] == "a" * 32
    got = await envelope(settings, answer)
    assert got.traceparent is not None
    assert got.traceparent[:36] == TRACE[:36]
    assert got.traceparent[36:52] != TRACE[36:52]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"x-correlation-id": "a b"}, False),
        ({"x-correlation-id": "x" * 257}, False),
        ({"x-correlation-id": "é"}, False),
        ({"x-correlation-id": ""}, False),
        ({"x-correlation-id": "ok"}, True),
    ],
)
async def test_malformed_ids_are_not_taken(given: dict[str, str], kept: bool) -> None:
    """What would break logs or headers is replaced by a new id; a malformed traceparent as well."""
    correlation_id, traceparent = identify(Headers(given | {"traceparent": "00-zz"}))
    assert (correlation_id == given["x-correlation-id"]) is kept
    assert len(traceparent) == 55
