"""The committed schemas: equal to the models, and never broken by a change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from schemas import events as e
from schemas.errors import SchemaIncompatible
from schemas.registry import FOLDER, LOCK, check, load, register


class RunStarted(e.Event):
    """As the product's, with one field that may be missing."""

    run_id: e.Name
    agent_id: e.Name
    task: str = ""
    budget_usd: Annotated[float | None, Field(description="What it may cost, US dollars.")] = None


class Stricter(e.Event):
    """As the product's, with one field that must be there."""

    run_id: e.Name
    agent_id: e.Name
    task: str = ""
    budget_usd: float


Stricter.__name__ = "RunStarted"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the committed files."""
    return Path(shutil.copytree(FOLDER, tmp_path / "avro"))


def contents(folder: Path) -> dict[str, str]:
    """Every file's text."""
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_committed_files_are_the_models() -> None:
    """Every model has a committed schema that equals it, and reads every earlier version of it."""
    check()


def test_every_file_is_in_the_lock() -> None:
    """Each schema file has one id, and each id one file: none was forgotten in a commit."""
    lock = json.loads((FOLDER / LOCK).read_text())
    named = {f"{name}.v{version}.avsc" for name, versions in lock.items() for version in versions}
    assert {path.name for path in FOLDER.glob("*.avsc")} == named
    ids = [id_ for versions in lock.values() for id_ in versions.values()]
    assert len(set(ids)) == len(ids)


def test_nothing_changed_nothing_written(folder: Path) -> None:
    """Registering the models as they are leaves every file as it is."""
    before = contents(folder)
    assert register(folder) == []
    assert contents(folder) == before


def test_an_optional_field_is_a_new_version(folder: Path) -> None:
    """A compatible change gets the next version and a fresh id; the old one keeps its file and its id."""
    before = load(folder)
    with pytest.raises(SchemaIncompatible, match="differs from its newest committed schema"):
        check(folder, (RunStarted,))
    (written,) = register(folder, (RunStarted,))
    assert written == f"RunStarted v2 (id {max(before.by_id) + 1})"
    check(folder, (RunStarted,))
    after = load(folder)
    assert {id_: r.definition for id_, r in after.by_id.items() if id_ in before.by_id} == {
        id_: r.definition for id_, r in before.by_id.items()
    }
    assert [r.version for r in after.versions["headwater.RunStarted"]] == [1, 2]
    assert register(folder, (RunStarted,)) == []


def test_an_incompatible_change_is_refused(folder: Path) -> None:
    """A new field without a default could not be read from earlier records: refused, and nothing is written."""
    before = contents(folder)
    with pytest.raises(SchemaIncompatible, match="cannot read its version 1"):
        register(folder, (Stricter,))
    with pytest.raises(SchemaIncompatible, match="budget_usd"):
        check(folder, (Stricter,))
    assert contents(folder) == before


def test_every_earlier_version_counts(folder: Path) -> None:
    """A change is held against all versions that records may have, not against the last one alone."""
    register(folder, (RunStarted,))
    with pytest.raises(SchemaIncompatible, match="cannot read its version 1"):
        check(folder, (Stricter,))


def test_versions_sort_as_numbers(folder: Path) -> None:
    """The tenth version is the newest, although its name sorts before the second's."""
    lock = json.loads((folder / LOCK).read_text())
    first = (folder / "RunStarted.v1.avsc").read_text()
    for version in range(2, 12):
        lock["RunStarted"][str(version)] = 1000 + version
        (folder / f"RunStarted.v{version}.avsc").write_text(first)
    (folder / LOCK).write_text(json.dumps(lock))
    assert load(folder).named("RunStarted")[-1].version == 11
