"""`headwater new fold NAME`: a package that works as it is made, or nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streams.cli import app
from streams.new import making
from tests.packages import POINTS, Packages
from tests.streams.new.environment import ROOT, Environment


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A command line in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return CliRunner()


def test_it_works_as_it_is_made(runner: CliRunner, tmp_path: Path) -> None:
    """Installed, it passes its own tests, ruff and mypy --strict, its schema is locked, and the topology shows it."""
    made = runner.invoke(app, ["new", "fold", "tool-errors"])
    assert made.exit_code == 0, made.output
    assert "  tool-errors/pyproject.toml" in made.stdout
    folder = Path.cwd() / "tool-errors"
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["tool-errors"]
    own = Environment(tmp_path / "venv")
    own.run("pip", "install", "-e", "tool-errors[test]", cwd=Path.cwd())
    assert "3 passed" in own.run("pytest", "-q", cwd=folder).stdout
    own.run("ruff", "check", cwd=folder)
    own.run("mypy", cwd=folder)
    locked = own.run("headwater", "schemas", "lock", "tool_errors.events", cwd=folder)
    assert "nothing changed" in locked.stdout
    rows = json.loads(own.run("headwater", "topology", "--json", cwd=folder).stdout)
    row = next(row for row in rows if row["fold"] == "tool-errors v1")
    assert (row["package"], row["reads"]) == ("tool-errors 0.1.0", ["signals"])
    again = own.run("headwater", "new", "fold", "tool-errors", cwd=Path.cwd(), check=False)
    assert "there is a module tool_errors already" in again.stderr


@pytest.mark.parametrize("name", ["a", "tool-errors", "a-rather-long-name-of-it"])
def test_it_is_written_well_whatever_its_name(runner: CliRunner, name: str) -> None:
    """Lint and format find nothing, with short and with long names."""
    assert runner.invoke(app, ["new", "fold", name]).exit_code == 0
    for command in (["check"], ["format", "--check"]):
        run = subprocess.run(
            [f"{sysconfig.get_path('scripts')}/ruff", *command, "--no-cache", name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout


def test_the_readme_is_of_five_lines(runner: CliRunner) -> None:
    """What to do with it fits into five lines."""
    runner.invoke(app, ["new", "fold", "tool-errors"])
    lines = [line for line in Path("tool-errors/README.md").read_text().splitlines() if line]
    assert len(lines) == 5


def test_the_products_readme_shows_this_fold(runner: CliRunner) -> None:
    """What README.md shows of a fold is what is made."""
    runner.invoke(app, ["new", "fold", "tool-errors"])
    (shown,) = re.findall(r"(?s)```python\n(def on_event.*?)```", (ROOT / "README.md").read_text())
    without_docstring = re.sub(r' *""".*?"""\n', "", Path("tool-errors/tool_errors/fold.py").read_text())
    assert textwrap.indent(shown, "    ") in without_docstring


def test_what_is_there_is_left_alone(runner: CliRunner) -> None:
    """A folder or file of that name is refused, and stays as it was."""
    Path("tool-errors").mkdir()
    Path("tool-errors/mine.txt").write_text("mine")
    refused = runner.invoke(app, ["new", "fold", "tool-errors"])
    assert refused.exit_code == 1
    assert "tool-errors is there already: nothing was changed" in refused.stderr
    assert [p.name for p in Path.cwd().rglob("*")] == ["tool-errors", "mine.txt"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ToolErrors", "small letters, digits and single hyphens"),
        ("tool_errors", "small letters, digits and single hyphens"),
        ("../errors", "small letters, digits and single hyphens"),
        ("9lives", "small letters, digits and single hyphens"),
        ("", "small letters, digits and single hyphens"),
        ("a" * 25, "24 at most"),
        ("class", "class is a word of Python's"),
        ("match", "match is a word of Python's"),
        ("json", "there is a module json already"),
        ("streams", "there is a module streams already"),
        ("signals", "topics that begin with signals. are somebody else's"),
        ("headwater", "topics that begin with headwater. are somebody else's"),
        ("anomaly", "there is a fold anomaly already"),
    ],
)
def test_what_is_no_name(runner: CliRunner, name: str, why: str) -> None:
    """It is said why not, and nothing is made."""
    refused = runner.invoke(app, ["new", "fold", "--", name])
    assert refused.exit_code == 1
    assert f"{name!r} is no name for a package: " in refused.stderr
    assert why in refused.stderr
    assert list(Path.cwd().iterdir()) == []


def test_names_of_installed_packages_are_taken(runner: CliRunner, packages: Packages) -> None:
    """An event type or topic of another package is not taken a second time."""
    packages.install(
        "acme",
        POINTS,
        {
            "acme.events": "from schemas.events import Event, Name\nfrom schemas.topics import Topic\n"
            "class SlowToolsNoticed(Event):\n    name: Name\n"
            "TOPICS = Topic('quiet.noticed', 'derived', {SlowToolsNoticed: 'name'}, 'x')\n"
        },
    )
    taken = runner.invoke(app, ["new", "fold", "slow-tools"])
    assert "there is an event type SlowToolsNoticed already" in taken.stderr
    taken = runner.invoke(app, ["new", "fold", "quiet"])
    assert "topics that begin with quiet. are somebody else's" in taken.stderr


def test_a_failure_leaves_nothing(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails half way leaves neither files nor modules behind."""

    def fails(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(making, "lock", fails)
    path, modules = list(sys.path), set(sys.modules)
    refused = runner.invoke(app, ["new", "fold", "tool-errors"])
    assert refused.exit_code == 1
    assert "No space left on device" in refused.stderr
    assert list(Path.cwd().iterdir()) == []
    assert sys.path == path
    assert not [name for name in set(sys.modules) - modules if name.startswith("tool_errors")]
