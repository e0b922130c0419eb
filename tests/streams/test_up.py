"""`headwater up` as a whole, on a real broker: start, restart of what dies, stop, and no orphan ever."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from streams.settings import Settings
from tests.conftest import free_base_port
from tests.streams.instances import Instance, gone, until

PROCESSES = {"broker", "folds", "views", "serve", "reactors"}
METRIC = json.dumps({"component": "tool:up", "name": "latency_ms", "value": 1.0})


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance that the tests below use in the order in which they stand; the last ones end it."""
    one = Instance(tmp_path_factory.mktemp("up") / "data", free_base_port())
    one.start()
    yield one
    one.end()


def test_all_processes_run_and_status_tells(instance: Instance) -> None:
    """`status --json` has every process with its pid, the addresses, and no restarts."""
    run = instance.run("status", "--json")
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["running"]
    assert instance.process is not None
    assert said["up_pid"] == instance.process.pid
    assert said["processes"].keys() >= PROCESSES
    for name in PROCESSES:
        assert said["processes"][name]["state"] == "running"
        assert said["processes"][name]["pid"] == instance.pids()[name]
        assert said["processes"][name]["restarts"] == 0
    assert said["kafka"] == {
        "bootstrap": instance.settings.bootstrap, "embedded": True, "namespace": "", "reachable": True,
    }  # fmt: skip
    assert f"API {instance.settings.api_url}" in instance.said()


def test_the_doctor_finds_a_running_instance_well(instance: Instance) -> None:
    """Ports are ours, topics as declared, the key private."""
    run = instance.run("doctor", "--json")
    report = json.loads(run.stdout)
    assert [f for f in report["findings"] if f["level"] == "fail"] == []
    assert run.returncode == 0


def test_an_event_goes_through_folds_and_is_counted(instance: Instance) -> None:
    """What `produce` writes, intake turns into a signal; status counts it, the supervisor saw the first."""
    assert instance.run("produce", "MetricReported", "--data", METRIC).returncode == 0
    shown = instance.run("tail", "signals", "--json", "--since", "1m", "--no-follow")

    def signals() -> list[str]:
        nonlocal shown
        shown = instance.run("tail", "signals", "--json", "--since", "1m", "--no-follow")
        return shown.stdout.splitlines()

    until(signals, 20)
    assert json.loads(shown.stdout.splitlines()[0])["data"]["component"] == "tool:up"
    until(lambda: json.loads(instance.run("status", "--json").stdout)["counts"]["events"] >= 1, 10)
    until(lambda: "first event processed" in instance.said(), 5)


def test_memory_is_within_its_bound(instance: Instance) -> None:
    """All processes together, idle, take less than 1.2 GB of proportional memory."""
    assert sum(p.memory_full_info().pss for p in instance.tree()) < 1.2e9


def test_processes_import_only_what_they_need(instance: Instance) -> None:
    """The supervisor has no Kafka client and no models in it: its own memory stays small."""
    assert instance.process is not None
    assert psutil.Process(instance.process.pid).memory_full_info().pss < 80e6


def test_a_second_start_names_the_first(instance: Instance) -> None:
    """The same data folder is refused with the pid, the first goes on undisturbed."""
    assert instance.process is not None
    run = instance.run("up", "--no-simulate", "--plain")
    assert run.returncode == 1
    assert f"pid {instance.process.pid}" in run.stderr
    assert "HEADWATER_DATA" in run.stderr
    assert "Traceback" not in run.stderr
    assert instance.is_ready()


def test_a_taken_port_is_named(instance: Instance, tmp_path: Path) -> None:
    """Another folder on the same port is refused with port and setting, and leaves nothing running."""
    other = Instance(tmp_path / "other", instance.settings.port)
    run = other.run("up", "--no-simulate", "--plain")
    assert run.returncode == 1
    assert f"port {instance.settings.port} (HEADWATER_PORT, for api)" in run.stderr
    assert json.loads(other.run("status", "--json").stdout)["up_pid"] is None


def test_a_killed_process_is_started_again(instance: Instance) -> None:
    """SIGKILL of `serve`: a new one runs, the restart is told and counted."""
    instance.kill("serve")
    until(instance.is_ready, 30)
    assert "serve ended by SIGKILL" in instance.said()
    said = json.loads(instance.run("status", "--json").stdout)
    assert said["processes"]["serve"]["restarts"] == 1


def test_a_killed_broker_is_started_again(instance: Instance) -> None:
    """SIGKILL of the JVM: a new one answers on the same log, and events flow again."""
    instance.kill("broker")
    until(instance.is_ready, 60)
    assert "broker ended" in instance.said()
    assert instance.run("produce", "MetricReported", "--data", METRIC).returncode == 0


def test_ctrl_c_stops_all_in_time(instance: Instance) -> None:
    """SIGINT: within 5 s everything is gone, status files and lock included; code 0."""
    assert instance.process is not None
    tree = instance.tree()
    assert len(tree) >= len(PROCESSES) + 1
    began = time.monotonic()
    instance.process.send_signal(signal.SIGINT)
    assert instance.process.wait(10) == 0
    assert time.monotonic() - began < 5.0
    assert gone(tree)
    assert json.loads(instance.run("status", "--json").stdout)["processes"] == {}
    assert "killed" not in instance.said().rpartition("stopping")[2]


def test_two_instances_and_a_killed_supervisor(instance: Instance, tmp_path: Path) -> None:
    """Side by side they do not touch; SIGKILL of one supervisor leaves no orphan, and the other runs on.

    The killed one starts again on its folder at once, with the log as it was. The other one shows
    the live display all the while.
    """
    other = Instance(tmp_path / "other", free_base_port() + 300)
    first = instance.process = instance.spawn()
    terminal = other.spawn_in_terminal()
    shown = bytearray()

    def look() -> None:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(terminal, 1 << 16):  # a terminal gives 4 KiB at a time
                shown.extend(chunk)

    def both_ready() -> bool:
        look()
        return instance.is_ready() and other.is_ready()

    def all_shown() -> bool:
        look()
        screen = shown.decode(errors="replace")
        return all(
            name in screen for name in ("Headwater", *PROCESSES, "fold intake", other.settings.api_url)
        )

    try:
        until(both_ready, 120)
        assert not set(instance.pids().values()) & set(other.pids().values())
        tree = instance.tree()
        first.kill()
        first.wait()
        until(lambda: gone(tree), 5)
        assert other.is_ready()
        assert len(other.tree()) >= len(PROCESSES) + 1
        shown.clear()
        until(all_shown, 30)  # an idle screen is drawn every 2 s
        other.end()
        instance.start()
        events = instance.run("tail", "agent.metrics", "--json", "--no-follow").stdout
        assert len(events.splitlines()) == 2
    finally:
        os.close(terminal)
        other.end()
        instance.end()


def test_stopping_before_it_is_up_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM while the broker boots: code 0, within 5 s, and nothing is left."""
    one = Instance(tmp_path / "data", free_base_port() + 600)
    one.process = one.spawn()
    until(lambda: (one.settings.run_folder / "up.json").exists() and len(one.tree()) > 3, 30)
    tree = one.tree()
    began = time.monotonic()
    one.process.terminate()
    assert one.process.wait(10) == 0
    assert time.monotonic() - began < 5.0
    until(lambda: gone(tree), 2)


def test_a_cluster_of_ones_own_is_used_and_never_changed(broker: Settings, tmp_path: Path) -> None:
    """With HEADWATER_KAFKA set no broker is started; topics have to be made by command, then all runs."""
    one = Instance(tmp_path / "data", free_base_port() + 900)
    one.environment |= {
        "HEADWATER_KAFKA": broker.bootstrap,
        "HEADWATER_NAMESPACE": "team",
        "HEADWATER_PARTITIONS": "1",
        "HEADWATER_RAW_PARTITIONS": "1",
    }
    refused = one.run("up", "--no-simulate", "--plain")
    assert refused.returncode == 1
    assert "headwater topics create" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert one.run("topics", "create").returncode == 0
    try:
        one.start()
        assert one.pids().keys() == PROCESSES - {"broker"}
        assert not any("java" in p.name() for p in one.tree())
        assert one.run("produce", "MetricReported", "--data", METRIC).returncode == 0
    finally:
        one.end()
    one.environment["HEADWATER_PARTITIONS"] = "2"
    other_count = one.run("up", "--no-simulate", "--plain")
    assert other_count.returncode == 1
    assert "HEADWATER_PARTITIONS" in other_count.stderr
