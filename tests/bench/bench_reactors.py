"""Findings to webhooks: from the acknowledged finding to the message at the server, alone and beside hanging targets.

The reactors run in a process of their own, the server and the writer of findings in this one.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from schemas import topics
from streams.admin import ensure_topics
from streams.partitions.kafka_log import KafkaLog
from streams.settings import Settings
from tests.bench.figures import figure, middle, quantiles, say
from tests.bench.ground import Ground, ground, python
from tests.streams.reactors.findings import Findings, finding
from tests.streams.reactors.target import Target
from tests.streams.reactors.test_kills import register

HANGING = 4
PAUSE_S = 0.05
MEASURED = 300
"""Findings in each round."""
ROUNDS = 3
CROWD = 2_000


def run(measured: int = MEASURED, rounds: int = ROUNDS, crowd: int = CROWD) -> dict[str, Any]:
    """Milliseconds from acknowledgement to arrival, and deliveries a second of many at once."""
    with ground() as place:
        return asyncio.run(_run(place, measured, rounds, crowd))


async def _run(place: Ground, measured: int, rounds: int, crowd: int) -> dict[str, Any]:
    settings = place.settings("reactors").model_copy(update={"webhook_networks": "127.0.0.0/8"})
    await ensure_topics(settings)
    environment = place.environment(settings) | {"HEADWATER_WEBHOOK_NETWORKS": "127.0.0.0/8"}
    command = [str(part) for part in python("tests.streams.reactors.kill_worker", "careful")]
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        async with Target().running() as target, Findings(settings) as findings:
            await register(settings, target.url("/ok"), idempotent=True)
            await _up(settings)
            sender = _Sender(findings, target)
            await sender.latencies(measured // 3)  # until then everything compiles and connects
            alone = [await sender.latencies(measured) for _ in range(rounds)]
            for number in range(HANGING):
                await register(settings, target.url(f"/hang/{number}"), idempotent=True)
            await asyncio.sleep(2)
            beside = [await sender.latencies(measured) for _ in range(rounds)]
            rate = await sender.crowd(crowd)
    finally:
        process.terminate()
        await process.wait()
    ways = {"alone": alone, "beside": beside}
    medians = {
        way: {q: middle([quantiles(r)[q] for r in found]) for q in ("p50", "p90", "p99")}
        for way, found in ways.items()
    }
    return {
        "load": f"one finding every {PAUSE_S * 1000:g} ms to one partition, {measured} a round, {rounds} rounds",
        "alone_ms": medians["alone"],
        f"beside_{HANGING}_hanging_targets_ms": medians["beside"],
        "delay_p50": figure(medians["beside"]["p50"] - medians["alone"]["p50"], "ms", must=100),
        "delay_p99": figure(medians["beside"]["p99"] - medians["alone"]["p99"], "ms", must=100),
        "deliveries": figure(rate, "deliveries/s"),
    }


class _Sender:
    def __init__(self, findings: Findings, target: Target) -> None:
        self._findings = findings
        self._target = target
        self._written = 0

    async def latencies(self, count: int) -> list[float]:
        """Milliseconds of each of so many findings, one after the other."""
        loop, begins, first = asyncio.get_running_loop(), {}, self._written
        for n in range(first, first + count):
            await self._findings.write([(f"f-{n}", finding(n, component="tool:one"))])
            begins[f"f-{n}"] = loop.time()
            await asyncio.sleep(PAUSE_S)
        self._written += count
        arrived = await self._arrived(count, first)
        found = [(at - begins[name]) * 1000 for name, at in arrived.items()]
        say(f"{quantiles(found)}")
        return found

    async def crowd(self, count: int) -> float:
        """Deliveries a second of so many findings of one transaction."""
        first, self._written = self._written, self._written + count
        began = asyncio.get_running_loop().time()
        await self._findings.write([(f"f-{n}", finding(n)) for n in range(first, first + count)])
        arrived = await self._arrived(count, first)
        return count / (max(arrived.values()) - began)

    async def _arrived(self, count: int, first: int) -> dict[str, float]:
        deadline = time.monotonic() + 120
        while True:
            found: dict[str, float] = {}
            for message in self._target.sent_to("/ok"):
                name = str(json.loads(message.body)["id"])
                if int(name.removeprefix("f-")) >= first:
                    found.setdefault(name, message.at)
            if len(found) >= count:
                return found
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(found)} of {count} messages arrived")
            await asyncio.sleep(0.2)


async def _up(settings: Settings) -> None:
    """Wait until the notifier has a position in every partition: it begins at the log's end."""
    log = KafkaLog(settings, "reactors.notifier")
    await log.start()
    while None in [await log.committed(topics.ANOMALIES.name, p) for p in range(settings.partitions)]:  # noqa: ASYNC110
        await asyncio.sleep(0.3)
    await log.close()
