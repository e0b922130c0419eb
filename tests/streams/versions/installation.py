"""Workers and commands with folds installed as users install them: by the entry points of a distribution."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from streams.settings import Settings

ROOT = Path(__file__).parents[3]
VERSIONS = {
    "chain-1": "tests.streams.folds:Chain",
    "chain-2": "tests.streams.versions.successors:Chain2",
    "chain-3": "tests.streams.versions.successors:Chain3",
    "echo-1": "tests.streams.folds:Echo",
    "echo-2": "tests.streams.versions.successors:Echo2",
    "silence-1": "tests.streams.folds:Silence",
    "silence-2": "tests.streams.versions.successors:Silence2",
}


def installed(folder: Path, *names: str) -> Path:
    """A folder that, on the path, is an installation of these folds; all of them unless named."""
    folder = folder / ("-".join(names) or "all")
    about = folder / "versions_under_test-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: versions-under-test\nVersion: 1.0\n")
    lines = [f"{name} = {VERSIONS[name]}" for name in names or VERSIONS]
    (about / "entry_points.txt").write_text("[headwater.folds]\n" + "\n".join(lines) + "\n")
    return folder


class Fleet:
    """One namespace on a broker, and the processes that work there; each has a data folder of its own."""

    def __init__(self, broker: Settings, folder: Path, partitions: int) -> None:
        self.folder = folder
        self.settings = broker.model_copy(
            update={
                "data": folder / "command",
                "kafka": broker.bootstrap,
                "namespace": f"v{uuid.uuid4().hex[:8]}",
                "partitions": partitions,
                "raw_partitions": 1,
            }
        )
        self.workers: list[subprocess.Popen[bytes]] = []
        self.logs: list[Path] = []

    def environment(self, *names: str, data: str = "command", **more: str) -> dict[str, str]:
        """With these folds installed, all unless named."""
        path = os.pathsep.join([str(installed(self.folder, *names)), str(ROOT)])
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")},
            "PYTHONPATH": path,
            "HEADWATER_DATA": str(self.folder / data),
            "HEADWATER_KAFKA": self.settings.bootstrap,
            "HEADWATER_NAMESPACE": self.settings.namespace,
            "HEADWATER_PARTITIONS": str(self.settings.partitions),
            "HEADWATER_RAW_PARTITIONS": str(self.settings.raw_partitions),
            "HEADWATER_SNAPSHOT_KEY": "of the versions' tests",
            "HEADWATER_LOG_FORMAT": "json",
            **more,
        }

    def work(self, *names: str, crash_at: str = "") -> subprocess.Popen[bytes]:
        """Start `headwater folds` with these folds; it dies at `crash_at` (step:count)."""
        number = len(self.logs)
        log = self.folder / f"worker-{number}.log"
        self.logs.append(log)
        more = {"HEADWATER_CRASH_AT": crash_at} if crash_at else {}
        with log.open("wb") as out:
            worker = subprocess.Popen(
                [sys.executable, "-m", "streams", "folds"],
                env=self.environment(*names, data=f"worker-{number}", **more),
                cwd=self.folder,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.workers.append(worker)
        return worker

    def command(self, *arguments: str, names: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start `headwater ARGUMENTS` with these folds installed."""
        return subprocess.Popen(
            [sys.executable, "-m", "streams", *arguments],
            env=self.environment(*names),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *arguments: str, names: tuple[str, ...] = (), timeout_s: float = 120
    ) -> tuple[int, str, str]:
        """The same, to its end: exit code, what it said, what it complained of."""
        process = self.command(*arguments, names=names)
        said, complained = process.communicate(timeout=timeout_s)
        return process.returncode, said, complained

    def stop(self) -> None:
        """End all workers, cleanly where they let themselves."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(15)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def said(self) -> str:
        """All that the workers said."""
        return "".join(log.read_text() for log in self.logs)


def lines_of(text: str, event: str) -> list[dict[str, Any]]:
    """Entries of a JSON log."""
    import json

    found = []
    for line in text.splitlines():
        if event in line and line.startswith("{"):
            entry = json.loads(line)
            if entry.get("event") == event:
                found.append(entry)
    return found
