"""What the README promises a newcomer, on one running instance."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from schemas import events as e
from schemas.codec import Codec
from schemas.envelope import Envelope, Headers, to_headers
from streams.keys import admin_key, create
from tests.conftest import free_base_port
from tests.streams.instances import Instance, until

CODEC = Codec()
METRICS = "agent.metrics"
VICTIMS = ("folds", "views", "folds", "serve", "folds")


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A running instance."""
    one = Instance(tmp_path_factory.mktemp("whole") / "data", free_base_port())
    try:
        one.start()
        yield one
    finally:
        one.end()


@pytest.fixture
def http(instance: Instance) -> Iterator[httpx.Client]:
    """A client of its API with the key of the first start."""
    headers = {"Authorization": f"Bearer {admin_key(instance.settings)}"}
    with httpx.Client(base_url=instance.settings.api_url, headers=headers, timeout=30) as client:
        yield client


def everything(http: httpx.Client, path: str, **filters: str) -> list[dict[str, Any]]:
    """All items of a list, page by page."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        answer = http.get(path, params={"limit": 200, **filters, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["items"]
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


def test_recorded_agents_through_killed_workers(
    instance: Instance, http: httpx.Client, data_set: Path
) -> None:
    """tau-bench's runs, errors and anomalies are answered whole while folds, views and API are killed."""
    file = data_set / "tau-bench" / "gpt-4o-airline-tasks-00-24.jsonl"
    replay = subprocess.Popen(
        [sys.executable, "-m", "streams", "replay", "tau-bench", str(file)],
        env=instance.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    for victim in VICTIMS:
        instance.kill(victim)
        time.sleep(1.0)
    said, _ = replay.communicate(timeout=60)
    assert replay.returncode == 0, said
    until(instance.is_ready, 30)
    until(lambda: all_seen(http), 60)
    runs = everything(http, "/v1/runs", project="tau-bench")
    assert len(runs) == 100
    assert [sum(r["outcome"] == o for r in runs) for o in ("success", "failure")] == [31, 69]
    counts = {n: sum(r[n] for r in runs) for n in ("tool_calls", "tool_failures", "llm_calls", "anomalies")}
    assert counts == {"tool_calls": 621, "tool_failures": 63, "llm_calls": 1381, "anomalies": 2}
    components = everything(http, "/v1/components", project="tau-bench")
    tools = [c for c in components if c["kind"] == "tool"]
    assert (sum(c["calls"] for c in tools), sum(c["failures"] for c in tools)) == (621, 63)
    anomalies = everything(http, "/v1/anomalies", project="tau-bench")
    assert len({a["id"] for a in anomalies}) == len(anomalies) == 2
    assert all(a["summary"] for a in anomalies)
    failed = next(r for r in runs if r["tool_failures"])
    timeline = http.get(f"/v1/runs/{failed['id']}", params={"project": "tau-bench"}).json()["timeline"]
    assert [step["type"] for step in timeline].count("ToolCallFailed") == failed["tool_failures"]
    assert everything(http, "/v1/dead-letters") == []


def all_seen(http: httpx.Client) -> bool:
    """Whether the views have what was replayed and what followed; an API that is down has not."""
    try:
        ready = http.get("/readyz").status_code == 200
        found = everything(http, "/v1/components", project="tau-bench") if ready else []
        runs = everything(http, "/v1/runs", project="tau-bench") if found else []
    except httpx.TransportError:
        return False
    calls = sum(c["calls"] for c in found if c["kind"] in {"tool", "model"})
    return bool(calls == 621 + 1381 and sum(r["anomalies"] for r in runs) == 2)


def metric(value: float) -> bytes:
    """A metric as it stands in a record, of any value."""
    return CODEC.encode(e.MetricReported.model_construct(component="tool:door", name="n", value=value))


def headers(**other: Any) -> Headers:
    """Headers of a metric of its own source."""
    envelope: dict[str, Any] = {"id": "", "source": "bad", "type": "MetricReported", "time": time.time()}
    return to_headers(Envelope(**envelope | other))


BAD_RECORDS: dict[str, tuple[bytes | None, bytes | None, Headers, str]] = {
    "no Avro at all": (b"default/c", b'{"value": 1}', [], "wrong framing"),
    "nothing": (b"default/c", None, [], "wrong framing"),
    "schema id": (b"default/c", b"\x00\x00\x00\x7f\xff", [], "unknown schema id 32767"),
    "event type": (b"default/c", metric(1.0), headers(type="Nonsense"), "ce_type says Nonsense"),
    "missing fields": (b"default/c", metric(1.0)[:8], [], "not readable as Avro"),
    "more than fields": (b"default/c", metric(1.0) + b"x", [], "1 bytes left"),
    "NaN": (b"default/c", metric(float("nan")), [], "value"),
    "infinity": (b"default/c", metric(float("inf")), [], "value"),
    "key": (b"\xff\xfe", metric(1.0), [], "key is not UTF-8"),
}


def test_garbage_from_any_kafka_client(instance: Instance, http: httpx.Client) -> None:
    """Each bad record is a dead letter that says why; the good ones around them are counted, once for an id."""
    producer = Producer({"bootstrap.servers": instance.settings.bootstrap, "linger.ms": 0})

    def write(key: bytes | None, value: bytes | None, head: Headers) -> None:
        producer.produce(METRICS, value, key, headers=list(head), partition=0)

    for number, (key, value, head, _) in enumerate(BAD_RECORDS.values()):
        write(key, value, head)
        write(b"default/tool:door", metric(number), headers(id=f"good-{number}"))
    for _ in range(2):
        write(b"default/tool:door", metric(1), headers(id="twice"))
    write(b"default/tool:door", metric(1), headers(id="late", time=time.time() + 10 * 365 * 86_400))
    assert producer.flush(20) == 0
    with pytest.raises(KafkaException) as refused:
        write(b"default/c", b"\x00" * 4_000_000, [])
    assert refused.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE
    large = Producer({"bootstrap.servers": instance.settings.bootstrap, "message.max.bytes": 8_000_000})
    answers: list[KafkaError | None] = []
    large.produce(METRICS, b"\x00" * 4_000_000, on_delivery=lambda error, _: answers.append(error))
    large.flush(20)
    assert answers[0] is not None
    assert answers[0].code() == KafkaError.MSG_SIZE_TOO_LARGE

    def counted() -> object:
        answer = http.get("/v1/components/tool:door")
        return answer.status_code == 200 and answer.json()["signals"] >= len(BAD_RECORDS) + 2

    until(counted, 30)
    until(lambda: len(everything(http, "/v1/dead-letters", topic=METRICS)) >= len(BAD_RECORDS), 30)
    component = http.get("/v1/components/tool:door").json()
    assert component["signals"] == len(BAD_RECORDS) + 2
    letters = {letter["of_offset"]: letter for letter in everything(http, "/v1/dead-letters", topic=METRICS)}
    said = [letters[offset]["error_message"] for offset in sorted(letters)]
    assert len(said) == len(BAD_RECORDS)
    for message, (*_, expected) in zip(said, BAD_RECORDS.values(), strict=True):
        assert expected in message
    listed = instance.run("dead-letters", "list")
    assert "wrong framing" in listed.stdout
    again = instance.run("dead-letters", "replay", METRICS, "0", str(min(letters)))
    assert again.returncode == 1
    assert "still cannot be decoded" in again.stderr
    assert "Traceback" not in again.stderr


def test_wrong_keys(instance: Instance, http: httpx.Client) -> None:
    """Without a key, with a wrong one, with another project's: refused, with the way to the right one."""
    url = f"{instance.settings.api_url}/v1/runs"
    for given in ({}, {"Authorization": "Bearer hw_000000000000_nonsense"}):
        answer = httpx.get(url, headers=given)
        assert answer.status_code == 401
        assert "api-key" in answer.json()["detail"]
    theirs = {"Authorization": f"Bearer {create(instance.settings, 'theirs', ['produce', 'read'], 'k')}"}
    assert httpx.get(url, headers=theirs).json()["items"] == []
    answer = httpx.get(url, headers=theirs, params={"project": "tau-bench"})
    assert answer.status_code == 403
    assert "theirs" in answer.json()["detail"]
    event = {
        "type": "MetricReported",
        "project": "tau-bench",
        "data": {"component": "c", "name": "n", "value": 1},
    }
    answer = httpx.post(f"{instance.settings.api_url}/v1/events", headers=theirs, json=event)
    assert answer.status_code == 403
    assert http.get("/readyz").status_code == 200
