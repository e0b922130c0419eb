"""The whole application against its own OpenAPI document: schemathesis finds no 5xx."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from projections.catalog import views
from projections.store import Store
from schemas.codec import Codec
from schemas.topics import RAW
from streams.gateway.app import create_app
from streams.keys import admin_key
from streams.settings import Settings
from tests.streams.gateway.serving import serving

EXAMPLES = int(os.environ.get("HEADWATER_SCHEMATHESIS", "10"))


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    """Address of a running `serve` with empty views."""
    store = Store(settings.database_url, views())
    store.prepare()
    store.close()
    with serving(settings) as address:
        yield address


@pytest.fixture(scope="module")
def schema(url: str) -> Any:
    """The document that the server gives."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_the_document_is_openapi_3_1(settings: Settings) -> None:
    """It names every door, and every operation has a summary and an id."""
    document = create_app(settings, Codec()).openapi()
    assert document["openapi"] == "3.1.0"
    expected = {"/v1/events", "/v1/components", "/v1/components/{component_id}", "/v1/agents", "/v1/runs"}
    expected |= {"/v1/runs/{run_id}", "/v1/anomalies", "/v1/dead-letters", "/healthz", "/readyz", "/metrics"}
    assert expected <= document["paths"].keys()
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert operation["operationId"]
    posted = document["components"]["schemas"]["PostedEvent"]["discriminator"]["mapping"]
    assert set(posted) == {t.__name__ for topic in RAW for t in topic.events}


def test_quotas_are_documented(settings: Settings) -> None:
    """Every call under /v1 may be answered 429 with Retry-After; posting tells of limits whatever comes of it."""
    paths = create_app(settings, Codec()).openapi()["paths"]
    operations = [o for path, all_of in paths.items() if path.startswith("/v1/") for o in all_of.values()]
    assert len(operations) > 10
    for operation in operations:
        assert "Retry-After" in operation["responses"]["429"]["headers"]
    posting = paths["/v1/events"]["post"]["responses"]
    for status in ("200", "207", "429"):
        assert {"RateLimit", "RateLimit-Policy"} <= posting[status]["headers"].keys()


def test_the_stream_is_documented(settings: Settings) -> None:
    """GET /v1/events tells of both answers, of the header to resume by, and of the id that is gone."""
    getting = create_app(settings, Codec()).openapi()["paths"]["/v1/events"]["get"]
    assert getting["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}
    assert getting["responses"]["410"]["description"] == "Gone"
    parameters = {(p["in"], p["name"]) for p in getting["parameters"]}
    assert {("header", "Last-Event-ID"), ("query", "last_event_id"), ("query", "since")} <= parameters


def test_the_page_to_try_it_brings_its_own_scripts(url: str) -> None:
    """`/docs` works offline: what it loads is served here, and nobody else's script could see a key."""
    page = httpx.get(f"{url}/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 2
    for path in loaded:
        assert path.startswith("/"), path
        assert httpx.get(url + path).status_code == 200


def test_schemathesis_finds_no_5xx(schema: Any, settings: Settings) -> None:
    """Generated requests, good and bad, to every operation: no answer is a server's error.

    /readyz is left out: it says 503 here, and rightly so, since nothing runs but this server.
    """
    headers = {"Authorization": f"Bearer {admin_key(settings)}"}
    operations = [o for o in (found.ok() for found in schema.get_all_operations()) if o.path != "/readyz"]
    assert len(operations) > 20

    def check(case: Any) -> None:
        case.validate_response(case.call(headers=headers, timeout=30), checks=[not_a_server_error])

    bounded = hypothesis_settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for operation in operations:
        good = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        bad = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        bounded(given(case=good)(check))()
        with suppress(Unsatisfiable):  # what takes no parameters cannot be asked wrongly
            bounded(given(case=bad)(check))()
