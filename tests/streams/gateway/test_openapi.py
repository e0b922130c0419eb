"""The whole application against its own OpenAPI document: schemathesis finds no 5xx."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import not_a_server_error

from projections.catalog import views
from projections.store import Store
from streams.gateway.app import create_app
from streams.keys import admin_key
from streams.settings import Settings
from tests.streams.gateway.serving import serving

EXAMPLES = int(os.environ.get("HEADWATER_SCHEMATHESIS", "15"))


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
    document = create_app(settings).openapi()
    assert document["openapi"] == "3.1.0"
    expected = {"/v1/events", "/v1/components", "/v1/components/{component_id}", "/v1/agents", "/v1/runs"}
    expected |= {"/v1/runs/{run_id}", "/v1/anomalies", "/v1/dead-letters", "/healthz", "/readyz", "/metrics"}
    assert expected <= document["paths"].keys()
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert operation["operationId"]


def test_schemathesis_finds_no_5xx(schema: Any, settings: Settings) -> None:
    """Generated requests, good and bad, to every operation: no answer is a server error but "not ready"."""
    headers = {"Authorization": f"Bearer {admin_key(settings)}"}
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        if operation.path == "/readyz":  # says 503 here, truly: no folds run
            continue

        @hypothesis_settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            answer = case.call(headers=headers, timeout=20)
            case.validate_response(answer, checks=[not_a_server_error])

        test = schemathesis.pytest if False else None
        del test
        strategy = operation.as_strategy()
        from hypothesis import given

        given(case=strategy)(check)()
