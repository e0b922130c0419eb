"""Schemas of packages: each has a lock file beside the module that declares its topics (ADR 9).

An id is made of the schema itself, so that everybody who has the package gives the same one, whatever
else is installed, and a schema keeps its id for ever. Ours are counted from 1, these begin at 2^30.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from schemas import catalog
from schemas.avro_models import avro_schema, canonical, check_backward
from schemas.errors import ConfigurationError, SchemaIncompatible
from schemas.events import Event
from schemas.extension import Added, Fault, Survey
from schemas.registry import Registered, Registry, load
from schemas.topics import TOPICS, Topic

FIRST = 2**30
"""The least id of a package's schema. They end below 2^31: clients in Java take ids as signed."""
Lock = dict[str, list[dict[str, Any]]]
"""Event type -> its versions, the oldest first: `id` and `schema` of each."""


def schema_id(definition: dict[str, Any]) -> int:
    """The id of a package's schema."""
    text = json.dumps(definition, sort_keys=True, separators=(",", ":"))
    return FIRST + int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) % FIRST


def path_of(module: ModuleType) -> Path:
    """The lock file of the event types that a module declares."""
    assert module.__file__ is not None
    return Path(module.__file__).parent / f"{module.__name__.rpartition('.')[2]}.lock.json"


@cache
def registry() -> Registry:
    """Every schema: ours, and those of packages as they locked them."""
    return Registry([*load().by_id.values(), *(r for added in survey().found for r in added.value)])


@cache
def survey() -> Survey[list[Registered]]:
    """The locked schemas of each package, and what is wrong with the rest."""
    found: list[Added[list[Registered]]] = []
    faults: list[Fault] = []
    given: dict[int, Registered] = {}
    for its in catalog.survey().found:
        try:
            locked = _locked(its, given)
        except (ConfigurationError, SchemaIncompatible) as error:
            faults.append(Fault(its.package, f"{its.at}: {error.message}", error.hint))
        else:
            found.append(Added(its.package, its.at, locked))
    return Survey(tuple(found), tuple(faults))


def _locked(its: Added[tuple[Topic, ...]], given: dict[int, Registered]) -> list[Registered]:
    module = import_module(its.at.partition(":")[0])
    lock, namespace = read(path_of(module)), catalog.namespace_of(its.at)
    command = f"run `headwater schemas lock {module.__name__}`, and keep the file with the code"
    for model in _models(its.value):
        versions = lock.get(model.__name__)
        if not versions:
            raise ConfigurationError(
                f"the schema of {model.__name__} is not locked in {path_of(module)}", hint=command
            )
        if _bare(versions[-1]["schema"]) != _bare(avro_schema(model, namespace)):
            raise SchemaIncompatible(
                f"{model.__name__} differs from its newest locked schema, in {path_of(module)}", hint=command
            )
    found = []
    for name, versions in lock.items():
        subject = f"{namespace}.{name}"
        for number, version in enumerate(versions, 1):
            id_, definition = version["id"], version["schema"]
            if id_ != schema_id(definition):
                raise ConfigurationError(
                    f"{path_of(module)}: {name} version {number} is another schema than its id {id_} says",
                    hint="the file was changed by hand: restore it from the package's history",
                )
            registered = Registered(id_, subject, number, definition, its.package)
            other = given.setdefault(id_, registered)
            if other.definition != definition:  # equal ones are a change that was taken back
                raise ConfigurationError(
                    f"{subject} version {number} and {other.subject} version {other.version} have the same id "
                    f"{id_} by chance, one in a thousand millions",
                    hint=f"change the docstring of one of them and lock it anew: {command}",
                )
            found.append(registered)
    return found


def _bare(schema: Any) -> Any:
    """Without documentation: a field that takes ours over from us must not break with our next release."""
    if isinstance(schema, dict):
        return {name: _bare(value) for name, value in schema.items() if name != "doc"}
    return [_bare(value) for value in schema] if isinstance(schema, list) else schema


def models_in(module: ModuleType) -> list[type[Event]]:
    """The event types of all topics that a module has, ours excepted."""
    named = [topic for value in vars(module).values() for topic in catalog.as_topics(value)]
    return _models(t for t in named if isinstance(t, Topic) and t not in TOPICS)


def _models(topics: Iterable[Topic]) -> list[type[Event]]:
    return list(dict.fromkeys(event for topic in topics for event in topic.events))


def read(path: Path) -> Lock:
    """What is locked; nothing where there is no file. Raises ConfigurationError."""
    try:
        lock: Lock = json.loads(path.read_text())
        for versions in lock.values():
            for version in versions:
                _ = int(version["id"]), version["schema"]["fields"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            f"{path} is no lock file: {error!r}", hint="restore it from the package's history"
        ) from error
    return lock


def lock(module: ModuleType) -> list[str]:
    """Add the schemas that changed to the module's lock file; returns what was added.

    Raises ConfigurationError where the module has no topics with event types, and SchemaIncompatible,
    before anything is written, where a model cannot read its earlier versions.
    """
    path, namespace = path_of(module), catalog.namespace_of(module.__name__)
    models = models_in(module)
    if not models:
        raise ConfigurationError(
            f"module {module.__name__} has no topics",
            hint="name the one that declares your schemas.topics.Topic",
        )
    locked, added = read(path), []
    for model in models:
        definition = _definition(model, namespace)
        versions = locked.setdefault(model.__name__, [])
        if versions and versions[-1]["schema"] == definition:
            continue
        check_backward(model.__name__, definition, [v["schema"] for v in versions])
        versions.append({"id": schema_id(definition), "schema": definition})
        added.append(f"{model.__name__} v{len(versions)} (id {versions[-1]['id']})")
    if added:
        path.write_text(canonical(locked))
    return added


def _definition(model: type[Event], namespace: str) -> dict[str, Any]:
    try:
        return avro_schema(model, namespace)
    except TypeError as error:
        raise ConfigurationError(
            f"{model.__name__} has no Avro schema: {error}", hint="change that field"
        ) from error


def check() -> None:
    """Raise SchemaIncompatible unless each package's newest schema reads its earlier ones; see also `survey`."""
    for added in survey().found:
        versions: dict[str, list[Mapping[str, Any]]] = {}
        for r in added.value:
            versions.setdefault(r.name, []).append(r.definition)
        for name, (*earlier, newest) in versions.items():
            check_backward(name, dict(newest), [dict(d) for d in earlier])
