"""What the registry door knows: schemas by id, by subject and version, and by their text."""

from __future__ import annotations

import json

import fastavro

from schemas.registry import Registered, Registry


class RegistryError(Exception):
    """Answered as Confluent does: an HTTP status, and a code whose first three digits are it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.status = int(str(code)[:3])
        self.code = code
        self.message = message


class Lookup:
    """Answers of the registry's read half."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def by_id(self, id_: int) -> Registered:
        """A registered schema; RegistryError 40403 where there is none."""
        try:
            return self._registry.by_id[id_]
        except KeyError:
            raise RegistryError(40403, f"Schema {id_} not found") from None

    def subjects(self) -> list[str]:
        """All subjects, sorted."""
        return sorted(self._registry.versions)

    def versions(self, subject: str) -> list[Registered]:
        """All versions of a subject, the oldest first; RegistryError 40401."""
        try:
            return self._registry.versions[subject]
        except KeyError:
            raise RegistryError(40401, f"Subject '{subject}' not found.") from None

    def version(self, subject: str, version: str) -> Registered:
        """One version: a number from 1, `latest` or -1; RegistryError 40401, 40402, 42202."""
        versions = self.versions(subject)
        if version in ("latest", "-1"):
            return versions[-1]
        if not version.isdecimal() or not 1 <= int(version) < 2**31:
            raise RegistryError(
                42202,
                f"The specified version '{version}' is not a valid version id. "
                'Allowed values are between [1, 2^31-1] and the string "latest"',
            )
        for registered in versions:
            if registered.version == int(version):
                return registered
        raise RegistryError(40402, f"Version {version} not found.")

    def same(self, subject: str, schema: str) -> Registered:
        """The newest version with this schema; RegistryError 40401, 40403, 42201.

        The same JSON is preferred; else the same parsing canonical form, so that order, white space
        and documentation do not matter.
        """
        versions = self.versions(subject)
        try:
            wanted = json.loads(schema)
            canonical = fastavro.schema.to_parsing_canonical_form(wanted)
        except Exception as error:  # fastavro raises many kinds on what is no schema
            raise RegistryError(42201, f"Invalid schema: {error!r}") from error
        alike = [v for v in versions if fastavro.schema.to_parsing_canonical_form(v.definition) == canonical]
        if not alike:
            raise RegistryError(40403, "Schema not found")
        return next((v for v in reversed(alike) if v.definition == wanted), alike[-1])
