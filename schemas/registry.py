"""Schema ids and every registered version; ours are read from the committed files in `schemas/avro`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fastavro
from fastavro.types import Schema

from schemas.avro_models import avro_schema, canonical, check_backward
from schemas.errors import SchemaIncompatible
from schemas.events import EVENT_TYPES, NAMESPACE, Event

FOLDER = Path(__file__).parent / "avro"
LOCK = "ids.json"


@dataclass(frozen=True)
class Registered:
    """One version of one subject. `subject` is the record's full name (RecordNameStrategy).

    Versions count from 1, as they were committed; 0 is a schema of somebody else's. `package` is the
    installed one that locked it, None where that is Headwater.
    """

    id: int
    subject: str
    version: int
    definition: dict[str, Any]
    package: str | None = None

    @property
    def name(self) -> str:
        """The event type's name."""
        return self.subject.rpartition(".")[2]

    @cached_property
    def parsed(self) -> Schema:
        """Parsed for fastavro."""
        return fastavro.parse_schema(self.definition)


class Registry:
    """All registered schemas, by id and by event type."""

    def __init__(self, registered: list[Registered]) -> None:
        self.by_id: dict[int, Registered] = {r.id: r for r in registered}
        self.versions: dict[str, list[Registered]] = {}
        for r in sorted(registered, key=lambda r: r.version):
            self.versions.setdefault(r.subject, []).append(r)

    def named(self, name: str) -> list[Registered]:
        """All versions of an event type, by its name or subject, the oldest first; none where it is unknown."""
        return [r for versions in self.versions.values() for r in versions if name in (r.name, r.subject)]


def load(folder: Path = FOLDER) -> Registry:
    """The registry of the committed files: `ids.json` and `<Name>.v<version>.avsc`."""
    lock: dict[str, dict[str, int]] = json.loads((folder / LOCK).read_text())
    return Registry(
        [
            Registered(
                id_, f"{NAMESPACE}.{name}", int(version), json.loads(_path(folder, name, version).read_text())
            )
            for name, versions in lock.items()
            for version, id_ in versions.items()
        ]
    )


def _path(folder: Path, name: str, version: str | int) -> Path:
    return folder / f"{name}.v{version}.avsc"


def check(folder: Path = FOLDER, models: tuple[type[Event], ...] = EVENT_TYPES) -> None:
    """Raise SchemaIncompatible unless the files equal the models and each reads its earlier versions."""
    registry = load(folder)
    for model in models:
        definition = avro_schema(model)
        versions = registry.versions.get(f"{NAMESPACE}.{model.__name__}", [])
        check_backward(model.__name__, definition, [v.definition for v in versions])
        if not versions or versions[-1].definition != definition:
            raise SchemaIncompatible(
                f"{model.__name__} differs from its newest committed schema",
                hint="run `make schemas` and commit",
            )


def register(folder: Path = FOLDER, models: tuple[type[Event], ...] = EVENT_TYPES) -> list[str]:
    """Write a new version for every model that changed; refuses an incompatible one. Returns what was written."""
    lock_path = folder / LOCK
    lock: dict[str, dict[str, int]] = json.loads(lock_path.read_text()) if lock_path.exists() else {}
    next_id = 1 + max((i for versions in lock.values() for i in versions.values()), default=0)
    written = []
    for model in models:
        definition = avro_schema(model)
        versions = lock.setdefault(model.__name__, {})
        earlier = [json.loads(_path(folder, model.__name__, v).read_text()) for v in versions]
        if earlier and earlier[-1] == definition:
            continue
        check_backward(model.__name__, definition, earlier)
        version = len(earlier) + 1
        versions[str(version)] = next_id
        _path(folder, model.__name__, version).write_text(canonical(definition))
        written.append(f"{model.__name__} v{version} (id {next_id})")
        next_id += 1
    lock_path.write_text(json.dumps(lock, indent=1) + "\n")
    return written


if __name__ == "__main__":
    for line in register() or ["nothing changed"]:
        print(line)  # noqa: T201 - a command
