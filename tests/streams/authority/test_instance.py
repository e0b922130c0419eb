"""`headwater up` with a registry: what a user sees of it, from the first start to the wrong one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from schemas.registry import load
from tests.conftest import free_base_port
from tests.streams.authority.apicurio import Door
from tests.streams.instances import Instance, until

pytestmark = pytest.mark.prove  # five whole starts; what they go through is tested piece by piece beside
METRIC = json.dumps({"component": "tool:up", "name": "latency_ms", "value": 1.0})


@pytest.fixture(scope="module")
def door(apicurio: str) -> Iterator[Door]:
    """A registry for all tests of this module, behind a password."""
    one = Door(apicurio, "s3cret")
    yield one
    one.shut()


@pytest.fixture(scope="module")
def instance(door: Door, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance that the tests below use in the order in which they stand."""
    one = Instance(tmp_path_factory.mktemp("registry") / "data", free_base_port())
    one.environment["HEADWATER_REGISTRY"] = door.url
    yield one
    one.end()


def refusal(instance: Instance) -> str:
    """What `up` says when it does not start."""
    run = subprocess.run(
        [sys.executable, "-m", "streams", "up", "--no-simulate", "--plain"],
        env=instance.environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "s3cret" not in run.stderr
    error = run.stderr[run.stderr.index("error: ") :]
    assert len(error.splitlines()) == 2, "a sentence, and what to do"
    return error


def finding(instance: Instance) -> dict[str, Any]:
    """What the doctor says of schema ids."""
    report = json.loads(instance.run("doctor", "--json").stdout)
    (one,) = [f for f in report["findings"] if f["check"] == "schema ids"]
    return dict(one)


def http(instance: Instance) -> httpx.Client:
    """The API with the administrator's key."""
    key = (instance.settings.data / "api-key").read_text().strip()
    return httpx.Client(
        base_url=instance.settings.api_url, headers={"Authorization": f"Bearer {key}"}, timeout=30
    )


def folded(instance: Instance) -> int:
    """How many events the folds have counted."""
    return int(json.loads(instance.run("status", "--json").stdout)["counts"]["events"])


def test_a_registry_that_is_away_is_said_at_the_start(instance: Instance, door: Door) -> None:
    """Nothing starts; the address and what to do are said, by the doctor too."""
    said = refusal(instance)
    assert f"the schema registry at {door.address} did not answer within 10 s" in said
    assert "HEADWATER_REGISTRY" in said
    assert finding(instance)["level"] == "fail"


def test_wrong_credentials_are_said_at_the_start(instance: Instance, door: Door) -> None:
    """401: refused at once."""
    door.start()
    right = instance.environment["HEADWATER_REGISTRY"]
    instance.environment["HEADWATER_REGISTRY"] = right.replace("s3cret", "other")
    assert "refuses the credentials (401" in refusal(instance)
    instance.environment["HEADWATER_REGISTRY"] = right


def test_the_first_start_registers_and_uses_the_ids(instance: Instance, door: Door) -> None:
    """`up` registers all schemas; produce, folds, views, tail, `schemas list` and /registry share the ids."""
    assert finding(instance)["level"] == "warn"
    instance.start()
    assert f"registered {len(load().by_id)} schemas at {door.address}" in instance.said()
    assert instance.run("produce", "MetricReported", "--data", METRIC).returncode == 0
    shown = ""

    def signalled() -> bool:
        nonlocal shown
        shown = instance.run("tail", "signals", "--json", "--since", "5m", "--no-follow").stdout
        return bool(shown)

    until(signalled, 60)
    assert json.loads(shown.splitlines()[0])["data"]["component"] == "tool:up"
    listed = json.loads(instance.run("schemas", "list", "--json").stdout)
    with http(instance) as api:
        for row in listed:
            there = door.http.get(f"/subjects/{row['subject']}/versions/latest").json()
            served = api.get(f"/registry/subjects/{row['subject']}/versions/latest").json()
            assert row["id"] == there["id"] == served["id"], row
            assert api.get(f"/registry/schemas/ids/{row['id']}/schema").json()["name"] == row["event"]
        until(lambda: api.get("/v1/components/tool:up").status_code == 200, 30)


def test_status_and_doctor_name_the_authority(instance: Instance, door: Door) -> None:
    """The registry's address without credentials, and that its ids fit the log."""
    said = instance.run("status", "--json").stdout
    assert json.loads(said)["schema_ids"] == {"authority": "registry", "registry": door.address}
    assert f"ids     {door.address}" in instance.run("status").stdout
    found = finding(instance)
    assert found["level"] == "ok"
    assert f"from {door.address}, as the log remembers them" in found["says"]
    assert "s3cret" not in said + json.dumps(found)


def test_it_runs_on_while_the_registry_is_away(instance: Instance, door: Door) -> None:
    """Events still come in and are folded; who starts anew is refused, and the doctor says why."""
    before = folded(instance)
    door.shut()
    with http(instance) as api:
        answer = api.post("/v1/events", json={"type": "MetricReported", "data": json.loads(METRIC)})
        assert answer.status_code == 200, answer.text
        until(lambda: folded(instance) > before, 30)
        assert api.get("/registry/subjects").status_code == 200
    run = instance.run("produce", "MetricReported", "--data", METRIC)
    assert run.returncode == 1
    assert "did not answer" in run.stderr
    assert "did not answer" in finding(instance)["says"]
    door.start()


def test_another_authority_is_refused_at_the_start(instance: Instance, door: Door, apicurio: str) -> None:
    """The committed ids, or another registry's: `up` and doctor name an id that differs and the way back."""
    instance.end()
    right = instance.environment.pop("HEADWATER_REGISTRY")
    said = refusal(instance)
    assert "schema ids do not fit the log: headwater.AgentAnnounced version 1 has id " in said
    assert f"given by {door.address}; the committed lock file" in said
    assert f"set HEADWATER_REGISTRY to {door.address}" in said
    assert finding(instance)["level"] == "fail"
    other = Door(apicurio)
    other.start()
    instance.environment["HEADWATER_REGISTRY"] = other.url
    assert f"given by {door.address}; {other.address} does not have it" in refusal(instance)
    assert other.http.get("/subjects").json() == []
    other.shut()
    instance.environment["HEADWATER_REGISTRY"] = right


def test_a_second_start_finds_all_as_it_was(instance: Instance) -> None:
    """With its own registry again nothing is registered, and the log is read on."""
    instance.start()
    assert instance.said().count("registered ") == 1
    events = instance.run("tail", "agent.metrics", "--json", "--no-follow").stdout
    assert len(events.splitlines()) == 2
    instance.end()
