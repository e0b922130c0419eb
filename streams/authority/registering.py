"""The committed schemas in a registry: which ids it gives them, and how those that it lacks get there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from schemas.avro_models import check_backward
from schemas.errors import ConfigurationError, SchemaIncompatible
from schemas.locks import FIRST
from schemas.registry import Registered, Registry
from streams.authority.confluent import SchemaRegistry


class Unregistered(ConfigurationError):
    """The registry answers, and has not got all schemas yet."""


class Found(NamedTuple):
    """The committed versions that a registry has, with its ids, and those that it lacks, the oldest first."""

    known: Registry
    lacking: list[Registered]

    def complete(self, url: str) -> Registry:
        """All with the registry's ids. Raises Unregistered where it lacks one."""
        if self.lacking:
            first, more = self.lacking[0], len(self.lacking) - 1
            raise Unregistered(
                f"the schema registry at {url} lacks {first.subject} version {first.version}"
                + (f" and {more} more" if more else ""),
                hint="register them: `headwater schemas register`",
            )
        return self.known


async def find(registry: SchemaRegistry, committed: Registry) -> Found:
    """Which of the committed versions a registry has. Raises as it does."""
    schemas = [r for versions in committed.versions.values() for r in versions]
    known, lacking = [], []
    for r, schema_id in zip(schemas, await registry.ids(schemas), strict=True):
        if schema_id is None:
            lacking.append(r)
        else:
            known.append(replace(r, id=schema_id))
    _refuse_shared_ids(known)
    return Found(Registry(known), sorted(lacking, key=_order))


async def register(registry: SchemaRegistry, lacking: Sequence[Registered]) -> list[str]:
    """Add what the registry lacks, in the order of the committed ids; returns what was added.

    An empty registry that counts from 1 then gives the committed ids. Raises SchemaIncompatible
    before anything is added where a subject has what our newest version cannot read, or where the
    registry's rules forbid ours.
    """
    first: dict[str, Registered] = {}
    newest: dict[str, Registered] = {}
    for r in sorted(lacking, key=lambda r: r.version):
        first.setdefault(r.subject, r)
        newest[r.subject] = r
    for subject, r in newest.items():
        try:
            check_backward(r.name, r.definition, await registry.versions(subject))
        except SchemaIncompatible as error:
            raise SchemaIncompatible(
                f"the schema registry at {registry.url} has another {subject}: {error.message}",
                hint="somebody registered it before: use another registry or a context of your own in it",
            ) from error
    for r in first.values():
        await registry.check(r.subject, r.definition)
    added = []
    for r in lacking:
        schema_id = await registry.register(r.subject, r.definition)
        added.append(f"{r.name} v{r.version} (id {schema_id})")
    return added


def _order(registered: Registered) -> tuple[int, str, int]:
    """Ours as their ids were given; then packages', whose ids are in no order."""
    if registered.package is None:
        return registered.id, "", 0
    return FIRST, registered.subject, registered.version


def _refuse_shared_ids(known: Sequence[Registered]) -> None:
    subjects: dict[int, str] = {}
    for r in known:
        other = subjects.setdefault(r.id, r.subject)
        if other != r.subject:
            raise ConfigurationError(
                f"the schema registry gives {other} and {r.subject} the same id {r.id}",
                hint="ids have to tell schemas apart: look into the registry",
            )
