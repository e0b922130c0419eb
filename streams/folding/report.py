"""What the process `folds` says of itself: to `headwater status`, and to Prometheus."""

from __future__ import annotations

import asyncio
from collections import Counter
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
    """Partitions, and by fold: events, outputs, dead letters, µs an event, lag, longest restore, versions at work."""
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
                    "switch_s": 0.0,
                    "versions": [],
                },
            )
            for name in ("events", "outputs", "dead_letters", "nanoseconds"):
                entry[name] += getattr(slot.stats, name)
            entry["keys"] += slot.keys
            entry["lag"] += lag
            entry["restore_s"] = max(entry["restore_s"], round(pump.task.restore_s, 3))
            entry["switch_s"] = max(entry["switch_s"], round(pump.task.switch_s, 3))
            entry["versions"] = sorted({slot.fold.version, *entry["versions"]})
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
            ("switch_s", "Longest last switch to another version in a partition, seconds."),
        ):
            gauge = GaugeMetricFamily(f"headwater_fold_{name}", about, labels=["fold"])
            for fold, entry in said["folds"].items():
                gauge.add_metric([fold], entry[name])
            yield gauge
        version = GaugeMetricFamily(
            "headwater_fold_version", "Partitions in which a version is in force.", labels=["fold", "version"]
        )
        for (fold, number), partitions in sorted(_versions(self._worker).items()):
            version.add_metric([fold, str(number)], partitions)
        yield version
        ready = GaugeMetricFamily("headwater_partitions_ready", "Partitions being processed.")
        ready.add_metric([], said["tasks_ready"])
        yield ready


def _versions(worker: Worker[PartitionTask]) -> Counter[tuple[str, int]]:
    """How many partitions each version of each fold has here."""
    slots = (slot for pump in worker.pumps.values() for slot in pump.task.slots)
    return Counter((slot.fold.name, slot.fold.version) for slot in slots)


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
