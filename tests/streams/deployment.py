"""Headwater on a cluster of one's own, as a user runs it: the commands, each process alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from streams.settings import Settings
from streams.supervision.status import Status, read

ROOT = Path(__file__).parents[2]


class Deployment:
    """Processes on one cluster, each `host` with a data folder and a port of its own.

    `environment` is what the user sets; `folds` are entry points of folds of the user's own.
    """

    def __init__(
        self, folder: Path, environment: dict[str, str], *, folds: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._environment = os.environ | environment | {"PYTHONPATH": f"{folder / 'plugins'}:{ROOT}"}
        self._processes: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        plugin = folder / "plugins" / "own_folds-1.dist-info"
        plugin.mkdir(parents=True)
        (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: own-folds\nVersion: 1\n")
        points = "".join(f"{name} = {where}\n" for name, where in (folds or {}).items())
        (plugin / "entry_points.txt").write_text(f"[headwater.folds]\n{points}")

    def environment(self, host: str) -> dict[str, str]:
        """What a process on `host` is started with."""
        return self._environment | {"HEADWATER_DATA": str(self.folder / host)}

    def start(self, host: str, *command: str) -> None:
        """Start a process; what it says goes to `<command>.log` in the host's folder."""
        (self.folder / host).mkdir(exist_ok=True)
        with (self.folder / host / f"{command[0]}.log").open("ab") as log:
            self._processes[host, command[0]] = subprocess.Popen(
                [sys.executable, "-m", "streams", *command],
                env=self.environment(host),
                stdout=log,
                stderr=log,
            )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command, to its end; keywords are more of the environment."""
        return subprocess.run(
            [sys.executable, "-m", "streams", *arguments],
            env=self.environment("operator") | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def said(self, host: str, name: str) -> str:
        """All that a process has logged."""
        return (self.folder / host / f"{name}.log").read_text()

    def status(self, host: str, name: str) -> Status | None:
        """What a process says of itself."""
        return read(self.folder / host / "run" / f"{name}.json")

    def running(self, host: str, name: str) -> bool:
        """Whether it says that it runs; fails where it has ended."""
        self.tend()
        said = self.status(host, name)
        return said is not None and bool(said["state"] == "running")

    def tend(self) -> None:
        """Fail where a process has ended by itself."""
        for (host, name), process in self._processes.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}: {self.said(host, name)}"

    def stop(self) -> None:
        """End all."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def settings_of(deployment: Deployment, host: str) -> Settings:
    """The settings that a process on `host` has."""
    values = {
        name.removeprefix("HEADWATER_").lower(): value
        for name, value in deployment.environment(host).items()
        if name.startswith("HEADWATER_")
    }
    return Settings.model_validate(values)
