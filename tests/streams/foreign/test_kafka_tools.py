"""Kafka's own tools, by `headwater kafka-tools`, agree with what we say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.events import MetricReported
from schemas.topics import TOPICS
from streams.sdk import Headwater
from streams.settings import Settings
from tests.streams.deployment import Deployment, settings_of
from tests.streams.instances import until

EVENTS = 12_000


@pytest.fixture
def slow(broker: Settings, tmp_path: Path) -> Iterator[Deployment]:
    """Folds that fall behind, in a namespace of their own with one partition a topic: all wait for the slow one."""
    one = Deployment(
        tmp_path,
        {
            "HEADWATER_KAFKA": broker.bootstrap,
            "HEADWATER_NAMESPACE": "slow",
            "HEADWATER_PARTITIONS": "1",
            "HEADWATER_RAW_PARTITIONS": "1",
        },
        folds={"slow": "tests.streams.foreign.slow:Slow"},
    )
    assert one.run("topics", "create").returncode == 0
    try:
        yield one
    finally:
        one.stop()


def groups(deployment: Deployment) -> dict[str, tuple[int, int, int]]:
    """(position, end, lag) of the folds by topic, as Kafka's ConsumerGroupCommand tells them."""
    run = deployment.run("kafka-tools", "consumer-groups", "--describe", "--group", "slow.folds")
    assert run.returncode == 0, run.stderr
    rows = [line.split() for line in run.stdout.splitlines() if line.startswith("slow.folds")]
    return {
        topic.removeprefix("slow."): (number(position), number(end), number(lag))
        for _, topic, _, position, end, lag, *_ in rows
    }


def number(text: str) -> int:
    """A number; a dash stands where nothing was ever committed."""
    return 0 if text == "-" else int(text)


def status(deployment: Deployment) -> dict[str, Any]:
    """What `headwater status --json` says."""
    found: dict[str, Any] = json.loads(deployment.run("status", "--json").stdout)
    return found


async def test_groups_and_lag(slow: Deployment) -> None:
    """While the folds catch up, our lag lies between two that Kafka tells; in the end both are none."""
    async with Headwater(settings_of(slow, "operator")) as hw:
        await hw.emit_many(
            [MetricReported(component=f"c{i % 50}", name="n", value=float(i)) for i in range(EVENTS)]
        )
    slow.start("operator", "folds")
    until(lambda: (status(slow)["lag"]["folds"].get("intake") or 0) > EVENTS / 10, 60)
    before = groups(slow)["agent.metrics"][2]
    ours = status(slow)["lag"]["folds"]["intake"]
    after = groups(slow)["agent.metrics"][2]
    assert before >= ours >= after
    assert before > 0

    def all_read() -> bool:
        said = status(slow)
        return bool(said["lag"]["folds_total"] == 0 and said["counts"]["events"] == EVENTS)

    until(all_read, 120)
    until(lambda: groups(slow)["signals"][2] == 0, 20)
    told = groups(slow)
    assert told.keys() >= {topic.name for topic in TOPICS if topic.kind in {"raw", "keyed"}}
    assert {lag for _, _, lag in told.values()} == {0}
    assert told["agent.metrics"][:2] == (EVENTS, EVENTS)
    ends = slow.run("kafka-tools", "get-offsets", "--topic-partitions", "slow.agent.metrics:0,slow.signals:0")
    assert ends.stdout.split() == [
        f"slow.agent.metrics:0:{EVENTS}",
        f"slow.signals:0:{told['signals'][1]}",
    ]


async def test_the_console_consumer(deployment: Deployment, settings: Settings) -> None:
    """It prints the headers and the key."""
    async with Headwater(settings, source="console-test") as hw:
        sent = await hw.metric("tool:console", "latency_ms", 12.5)
    run = deployment.run(
        *("kafka-tools", "console-consumer", "--topic", settings.named(sent.topic)),
        *("--partition", str(sent.partition), "--offset", str(sent.offset), "--max-messages", "1"),
        *("--formatter-property", "print.key=true", "--formatter-property", "print.headers=true"),
        *("--timeout-ms", "20000"),
    )
    assert run.returncode == 0, run.stderr
    headers, key, _ = run.stdout.split("\t", 2)
    told = dict(one.split(":", 1) for one in headers.split(","))
    assert told["ce_id"] == sent.id
    assert told["ce_source"] == "console-test"
    assert key == "default/tool:console"


def test_a_tools_own_help(deployment: Deployment) -> None:
    """What follows its name is the tool's; of one that is not there, those that are are named."""
    assert (
        "--reset-offsets"
        in (run := deployment.run("kafka-tools", "consumer-groups", "--help")).stdout + run.stderr
    )
    unknown = deployment.run("kafka-tools", "consumer-group")
    assert unknown.returncode == 1
    assert "consumer-groups" in unknown.stderr
