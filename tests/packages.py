"""Packages of users, as pip would install them: modules and metadata in a folder that Python looks into."""

from __future__ import annotations

import importlib
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from processors import catalog as folds
from projections import catalog as views
from schemas import catalog, extension, locks, topics
from streams.reactors import catalog as reactors

EVENTS = """\
from schemas.events import Event, Name
from schemas.topics import Topic


class TicketOpened(Event):
    \"\"\"A customer wants something.\"\"\"

    customer: Name
    text: str = ""


class TicketsPiledUp(Event):
    \"\"\"A customer has opened three tickets more.\"\"\"

    customer: Name
    tickets: int


TICKETS = Topic("acme.tickets", "raw", {TicketOpened: "customer"}, "what customers want")
PILES = Topic("acme.piles", "derived", {TicketsPiledUp: "customer"}, "who wants much")
"""
POINTS = "headwater.events.acme = acme.events:TOPICS"


class Packages:
    """What is installed beside the product, in this process and in those that get `environment`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._modules: set[str] = set()

    def install(
        self, name: str, points: str = "", modules: Mapping[str, str] | None = None, version: str = "1.0"
    ) -> None:
        """Install a package; `points` has a line `group.name = module:attribute` for each entry point."""
        for module, text in (modules or {}).items():
            self.write(module, text)
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(_sections(points))
        self.find_anew()

    def write(self, module: str, text: str) -> None:
        """A module's code."""
        path = self.folder / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent != self.folder:
            (path.parent / "__init__.py").touch()
        path.write_text(textwrap.dedent(text))
        self._modules.add(module.partition(".")[0])
        self.find_anew()

    def remove(self, name: str) -> None:
        """Uninstall it; its modules stay, as nobody imports them any more."""
        for info in self.folder.glob(f"{name.replace('-', '_')}-*.dist-info"):
            shutil.rmtree(info)
        self.find_anew()

    def lock(self, module: str) -> list[str]:
        """As `headwater schemas lock`."""
        locked = locks.lock(importlib.import_module(module))
        self.find_anew()
        return locked

    def find_anew(self) -> None:
        """What a new process would find."""
        for name in [n for n in sys.modules if n.partition(".")[0] in self._modules]:
            del sys.modules[name]
        importlib.invalidate_caches()
        for cached in (
            extension._points,
            catalog._known,
            topics._of_packages,
            topics.topic_of,
            locks.registry,
            locks.survey,
            folds.survey,
            views.survey,
            reactors.survey,
        ):
            cached.cache_clear()

    @property
    def environment(self) -> dict[str, str]:
        """For a process that shall have the packages, too."""
        return {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}


def _sections(points: str) -> str:
    lines = []
    for line in points.split("\n"):
        if line.strip():
            group_and_name, _, value = line.strip().partition(" = ")
            group, _, name = group_and_name.rpartition(".")
            lines.append(f"[{group}]\n{name} = {value}\n")
    return "\n".join(lines)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    """None is installed yet."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a module that is written twice within a second
    installed = Packages(folder)
    yield installed
    for info in folder.glob("*.dist-info/entry_points.txt"):
        info.unlink()
    installed.find_anew()


def tickets(packages: Packages, *, lock: bool = True) -> None:
    """Install the package `acme` with its two event types."""
    packages.install("acme-tickets", POINTS, {"acme.events": EVENTS + "TOPICS = (TICKETS, PILES)\n"})
    if lock:
        packages.lock("acme.events")
