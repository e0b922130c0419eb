"""Prometheus metrics of each process, and all of them together.

Every process counts in `REGISTRY` and leaves the text in `$DATA/run/<process>.prom`; `serve` answers
`/metrics` with all files merged. prometheus_client's own multi-process mode keeps a memory-mapped
file for every pid that ever was, without a process label.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from streams.settings import Settings
from streams.supervision.status import born, is_alive, leave

REGISTRY = CollectorRegistry()
"""This process's metrics; `ProcessCollector` adds its CPU seconds, memory and open files."""
ProcessCollector(registry=REGISTRY)
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, read by none

_HEADER = "# headwater pid"


def publish(settings: Settings, process: str) -> None:
    """Write this process's metrics where `merged` finds them."""
    header = f"{_HEADER} {os.getpid()} born {born(os.getpid())}\n"
    leave(settings.run_folder / f"{process}.prom", header.encode() + generate_latest(REGISTRY))


def merged(settings: Settings) -> str:
    """Every live process's metrics in Prometheus text format 0.0.4, with a `process` label.

    A dead process's file is left out: a counter that stands still would look like an idle process.
    """
    registry = CollectorRegistry()
    registry.register(_Merged(_families(settings.run_folder)))
    return generate_latest(registry).decode()


class _Merged(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(folder: Path) -> Iterable[Metric]:
    """One family a name; a family that differs in type between processes keeps its first type."""
    families: dict[str, Metric] = {}
    for path in sorted(folder.glob("*.prom")):
        try:
            text = path.read_text()
        except FileNotFoundError:  # its process stopped between the listing and here
            continue
        if not _is_current(text):
            continue
        for family in text_string_to_metric_families(text):
            target = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                target.samples.append(sample._replace(labels={"process": path.stem} | sample.labels))
    return families.values()


def _is_current(text: str) -> bool:
    first = text.partition("\n")[0]
    if not first.startswith(_HEADER):
        return False
    pid, _, birth = first.removeprefix(_HEADER).split()
    return is_alive(int(pid), float(birth))
