"""What the process `folds` says of itself: to `headwater status`, and to Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streams.folding.task import PartitionTask
from streams.partitions.worker import Worker
from streams.supervision.metrics import REGISTRY
from streams.supervision.status import ProcessStatus

INTERVAL_S = 1.0


def facts(worker: Worker[PartitionTask]) -> dict[str, Any]:
    """Partitions, and by fold: events, outputs, dead letters, µs an event, lag, longest restore."""
    folds: dict[str, dict[str, Any]] = {}
    total_lag = 0
    for tp, pump in worker.pumps.items():
        lag = worker.lag(tp)
        total_lag += lag
        for slot in pump.task.slots:
            entry = folds.setdefault(
                slot.fold.name,
                {
                    "events": 0,
                    "outputs": 0,
                    "dead_letters": 0,
                    "nanoseconds": 0,
                    "keys": 0,
                    "lag": 0,
                    "restore_s": 0.0,
                },
            )
            for name in ("events", "outputs", "dead_letters", "nanoseconds"):
                entry[name] += getattr(slot.stats, name)
            entry["keys"] += slot.keys
            entry["lag"] += lag
            entry["restore_s"] = max(entry["restore_s"], round(pump.task.restore_s, 3))
    for entry in folds.values():
        entry["us_per_event"] = round(entry.pop("nanoseconds") / 1000 / max(1, entry["events"]), 2)
    return {
        "partitions": sorted([worker.plain(tp.topic), tp.partition] for tp in worker.pumps),
        "tasks_ready": sum(p.ready for p in worker.pumps.values()),
        "folds": folds,
        "lag": total_lag,
    }


class FoldMetrics(Collector):
    """The same for Prometheus, computed when asked."""

    def __init__(self, worker: Worker[PartitionTask]) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        """One sample a fold; `headwater_fold_lag` counts offsets."""
        said = facts(self._worker)
        for name, about in (
            ("events", "Events given to a fold."),
            ("outputs", "Events that a fold gave."),
            ("dead_letters", "Records on which a fold raised."),
        ):
            counter = CounterMetricFamily(f"headwater_fold_{name}", about, labels=["fold"])
            for fold, entry in said["folds"].items():
                counter.add_metric([fold], entry[name])
            yield counter
        for name, about in (
            ("lag", "Offsets between a fold's position and the end of its partitions."),
            ("keys", "Keys whose state a fold holds."),
            ("us_per_event", "Mean time that a fold takes, microseconds an event."),
            ("restore_s", "Longest last restore of a partition, seconds."),
        ):
            gauge = GaugeMetricFamily(f"headwater_fold_{name}", about, labels=["fold"])
            for fold, entry in said["folds"].items():
                gauge.add_metric([fold], entry[name])
            yield gauge
        ready = GaugeMetricFamily("headwater_partitions_ready", "Partitions being processed.")
        ready.add_metric([], said["tasks_ready"])
        yield ready


async def report(worker: Worker[PartitionTask], status: ProcessStatus) -> None:
    """Write the status every second until cancelled."""
    collector = FoldMetrics(worker)
    REGISTRY.register(collector)
    try:
        while True:
            status.set("running" if worker.ready else "starting", **facts(worker))
            await asyncio.sleep(INTERVAL_S)
    finally:
        REGISTRY.unregister(collector)
