"""The instance at a glance: processes, counts, rates, lag."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from streams.settings import Settings
from streams.supervision.overview import Observer, reachable, total_lag
from streams.supervision.status import ProcessStatus
from tests.conftest import free_base_port


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An instance of its own."""
    return Settings(data=tmp_path)


def test_rates_are_those_of_the_last_seconds(settings: Settings) -> None:
    """Events a second between looks; a process that counts from zero anew gives no negative rate."""
    status, observer = ProcessStatus(settings, "folds"), Observer(settings)
    status.set("running", folds={"intake": {"events": 100, "outputs": 100}})
    assert observer.look().rate_in == 0.0
    time.sleep(0.25)
    status.set("running", folds={"intake": {"events": 150, "outputs": 100}})
    look = observer.look()
    assert 50 < look.rate_in <= 200
    assert look.rate_out == 0.0
    assert look.events_in == 150
    status.set("running", folds={"intake": {"events": 3, "outputs": 3}})
    assert observer.look().rate_in == 0.0


def test_the_supervisor_knows_better_than_a_file(settings: Settings) -> None:
    """What `up` says of pids, states and restarts wins; a process alone is known by its own file."""
    ProcessStatus(settings, "up").set(
        "running",
        pids={"folds": None, "broker": os.getpid()},
        states={"folds": "restarting", "broker": "running"},
        restarts={"folds": 2, "broker": 0},
    )
    ProcessStatus(settings, "folds").set("running")
    ProcessStatus(settings, "simulate").set("running")
    processes = {p.name: p for p in Observer(settings).look().processes}
    assert (processes["folds"].state, processes["folds"].pid, processes["folds"].restarts) == (
        "restarting",
        None,
        2,
    )
    assert processes["broker"].pid == processes["simulate"].pid == os.getpid()
    assert processes["broker"].pss_bytes is not None
    assert list(processes) == ["broker", "folds", "simulate", "up"]


def test_nothing_is_no_error(settings: Settings) -> None:
    """Without any file nothing runs, and all counts are zero."""
    look = Observer(settings).look()
    assert not look.running
    assert (look.processes, look.events_in, look.pss_bytes, look.cpu) == ([], 0, 0, 0.0)


def test_unknown_lag_is_not_zero() -> None:
    """Lags add up; none known is None."""
    assert total_lag({"a": {"lag": 2}, "b": {"lag": None}, "c": {"lag": 3}}) == 5
    assert total_lag({"b": {"lag": None}, "c": {}}) is None


def test_one_address_that_answers_is_enough() -> None:
    """Of several bootstrap addresses one has to accept; nonsense is not reachable."""
    port = free_base_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert reachable(f"127.0.0.1:{port + 1},127.0.0.1:{port}")
    assert not reachable(f"127.0.0.1:{port}")
    assert not reachable("nonsense")
