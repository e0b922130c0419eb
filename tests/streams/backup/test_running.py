"""Backups of a running instance by its commands: killed amid it, taken, refused, and gone on from elsewhere."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from streams.supervision.status import read_all
from tests.conftest import free_base_port
from tests.streams.instances import Instance, until


class Client:
    """Counts calls of one tool through an instance's doors."""

    def __init__(self, instance: Instance) -> None:
        key = (instance.settings.data / "api-key").read_text().strip()
        self._http = httpx.Client(
            base_url=instance.settings.api_url, headers={"Authorization": f"Bearer {key}"}, timeout=30
        )

    def call(self, number: int) -> None:
        """Send one call; it is acknowledged when this returns."""
        data = {"agent_id": "a", "tool_name": "t", "call_id": str(number), "latency_ms": 1.0}
        answer = self._http.post(
            "/v1/events", json={"type": "ToolCallCompleted", "id": str(number), "data": data}
        )
        assert answer.status_code == 200, answer.text
        self.position = answer.json()["position"]

    def calls(self, **parameters: str) -> int:
        """How many the view has counted."""
        answer = self._http.get("/v1/components/tool:t", params=parameters)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["calls"])


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance that the tests below use in the order in which they stand."""
    one = Instance(tmp_path_factory.mktemp("running") / "data", free_base_port())
    try:
        one.start()
        yield one
    finally:
        one.end()


def test_a_backup_that_is_killed(instance: Instance, tmp_path: Path) -> None:
    """SIGKILL at any moment of it: the broker goes on, events are taken, and there is no file that looks whole."""
    client, rng = Client(instance), random.Random(4)
    broker = psutil.Process(instance.pids()["broker"])
    for number in range(8):
        process = subprocess.Popen(
            [sys.executable, "-m", "streams", "backup", str(tmp_path / f"{number}.tar")],
            env=instance.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if number % 2:
            time.sleep(rng.uniform(0.2, 1.0))
        else:  # the moment itself: it is waited for, and may be missed
            while process.poll() is None and broker.status() != psutil.STATUS_STOPPED:
                time.sleep(0.001)
        process.kill()
        process.wait()
        until(lambda: broker.status() != psutil.STATUS_STOPPED, 2)
        client.call(number)
    assert instance.pids()["broker"] == broker.pid
    for path in tmp_path.glob("*.tar"):  # one that was done before it was killed
        assert instance.run("restore", str(path), "--data", str(tmp_path / path.stem)).returncode == 0


def test_it_goes_on_elsewhere(instance: Instance, tmp_path: Path) -> None:
    """What was there at the backup is there, read and counted once, and nothing else; then all goes on from it."""
    client, path, elsewhere = Client(instance), tmp_path / "b.tar", tmp_path / "elsewhere"
    for number in range(100, 140):
        client.call(number)
    at_backup = client.calls(at_least=client.position)
    taken = instance.run("backup", str(path))
    assert taken.returncode == 0, taken.stderr
    assert "the broker stood still for" in taken.stdout
    for number in range(200, 220):
        client.call(number)
    data = instance.settings.data
    before = (data.stat().st_ino, sorted(data.parent.iterdir()))
    refused = instance.run("restore", str(path), "--force")
    assert refused.returncode == 1
    assert f"already runs in {data}" in refused.stderr
    assert (data.stat().st_ino, sorted(data.parent.iterdir())) == before
    restored = instance.run("restore", str(path), "--data", str(elsewhere))
    assert restored.returncode == 0, restored.stderr
    other = Instance(elsewhere, instance.settings.port + 600)
    try:
        other.start()
        there = Client(other)
        assert there.calls() == at_backup
        there.call(300)
        assert there.calls(at_least=there.position) == at_backup + 1
        # Positions came along: nothing that was read before is read again.
        assert events_folded(other) < 10
        assert other.run("doctor", "--json").returncode == 0
        assert client.calls(at_least=client.position) == at_backup + 20
    finally:
        other.end()


def events_folded(instance: Instance) -> int:
    """Events that the folds have read since they started."""
    facts: dict[str, Any] = read_all(instance.settings)["folds"]["facts"]
    return sum(int(fold["events"]) for fold in facts["folds"].values())


def test_a_damaged_one(instance: Instance, tmp_path: Path) -> None:
    """By command, too, it is refused with what is wrong, and the folder is not made."""
    path = tmp_path / "b.tar"
    assert instance.run("backup", str(path)).returncode == 0
    path.write_bytes(path.read_bytes()[:-20_000])
    run = instance.run("restore", str(path), "--data", str(tmp_path / "new"))
    assert run.returncode == 1
    assert "is damaged" in run.stderr
    assert "nothing was changed" in run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["b.tar"]
