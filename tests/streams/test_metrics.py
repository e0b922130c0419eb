"""Metrics of all processes in one answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from streams.settings import Settings
from streams.supervision.metrics import REGISTRY, merged, publish

EVENTS = Counter("test_metrics_events", "Events.", ["fold"], registry=REGISTRY)
LATENCY = Histogram("test_metrics_latency_seconds", "Latency.", registry=REGISTRY, buckets=(0.1, 1.0))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An instance of its own."""
    return Settings(data=tmp_path)


def samples(settings: Settings, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Values of one sample name by its labels."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(merged(settings))
        for sample in family.samples
        if sample.name == name
    }


def test_every_process_is_told_apart_by_its_label(settings: Settings) -> None:
    """Two processes with the same metric give one family with two labelled series."""
    EVENTS.labels("intake").inc(3)
    publish(settings, "folds")
    publish(settings, "views")
    value = EVENTS.labels("intake")._value.get()
    assert samples(settings, "test_metrics_events_total") == {
        (("fold", "intake"), ("process", "folds")): value,
        (("fold", "intake"), ("process", "views")): value,
    }
    assert merged(settings).count("# TYPE test_metrics_events_total counter") == 1


def test_histograms_keep_their_buckets(settings: Settings) -> None:
    """A histogram comes out as one, with cumulative buckets, sum and count."""
    before = LATENCY._sum.get()
    LATENCY.observe(0.5)
    publish(settings, "serve")
    buckets = samples(settings, "test_metrics_latency_seconds_bucket")
    assert {dict(labels)["le"] for labels in buckets} == {"0.1", "1.0", "+Inf"}
    sums = samples(settings, "test_metrics_latency_seconds_sum")
    assert sums[(("process", "serve"),)] == pytest.approx(before + 0.5)


def test_a_dead_process_is_left_out(settings: Settings) -> None:
    """A process that is gone does not look like an idle one."""
    code = (
        "from streams.settings import Settings; from streams.supervision.metrics import publish\n"
        f"publish(Settings(data={str(settings.data)!r}), 'folds')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (settings.run_folder / "folds.prom").exists()
    assert "process=" not in merged(settings)


def test_nothing_published_is_an_empty_answer(settings: Settings) -> None:
    """No file, and a file that is not ours, are no error."""
    assert merged(settings) == ""
    settings.run_folder.mkdir(parents=True)
    (settings.run_folder / "x.prom").write_text("up 1\n")
    assert merged(settings) == ""


def test_a_process_counts_its_own_cpu_and_memory(settings: Settings) -> None:
    """CPU seconds and memory are there without anyone asking."""
    publish(settings, "folds")
    assert samples(settings, "process_cpu_seconds_total")[(("process", "folds"),)] > 0
    assert samples(settings, "process_resident_memory_bytes")[(("process", "folds"),)] > 1e6
