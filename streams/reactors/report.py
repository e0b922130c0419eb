"""What the process `reactors` says of itself: to `headwater status`, and to Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streams.supervision.metrics import REGISTRY
from streams.supervision.status import ProcessStatus

if TYPE_CHECKING:
    from streams.reactors.host import Host

INTERVAL_S = 1.0
COUNTS = ("events", "calls", "deferred", "succeeded", "failed", "unknown", "dropped")


def facts(hosts: Sequence[Host]) -> dict[str, Any]:
    """By reactor: counts since the process started, effects that are unfinished, lag."""
    return {"reactors": {host.reactor.name: _of(host) for host in hosts}}


def _of(host: Host) -> dict[str, Any]:
    entry = dict.fromkeys((*COUNTS, "unfinished", "lag"), 0)
    for tp, pump in host.worker.pumps.items():
        task = pump.task
        for name in COUNTS:
            entry[name] += getattr(task.stats, name)
        entry["unfinished"] += task.ledger.unfinished if task.ledger is not None else 0
        entry["lag"] += host.worker.lag(tp)
    return entry


class ReactorMetrics(Collector):
    """The same for Prometheus, computed when asked."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts

    def collect(self) -> Iterator[Metric]:
        """One sample a reactor and outcome; lag counts offsets."""
        said = facts(self._hosts)["reactors"]
        effects = CounterMetricFamily(
            "headwater_reactor_effects", "What came of calls and effects.", labels=["reactor", "what"]
        )
        for name, entry in said.items():
            for what in COUNTS:
                effects.add_metric([name, what], entry[what])
        yield effects
        for what, about in (
            ("unfinished", "Effects that are planned, under way or deferred."),
            ("lag", "Offsets between a reactor's position and the end of its partitions."),
        ):
            gauge = GaugeMetricFamily(f"headwater_reactor_{what}", about, labels=["reactor"])
            for name, entry in said.items():
                gauge.add_metric([name], entry[what])
            yield gauge


async def report(hosts: Sequence[Host], status: ProcessStatus) -> None:
    """Write the status every second until cancelled."""
    collector = ReactorMetrics(hosts)
    REGISTRY.register(collector)
    try:
        while True:
            ready = all(host.worker.ready for host in hosts)
            status.set("running" if ready else "starting", **facts(hosts))
            await asyncio.sleep(INTERVAL_S)
    finally:
        REGISTRY.unregister(collector)
