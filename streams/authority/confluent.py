"""A schema registry that speaks Confluent's API, asked over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from schemas.errors import ConfigurationError, RegistryUnavailable, SchemaIncompatible
from schemas.registry import Registered

T = TypeVar("T")
DEADLINE_S = 10.0
_REQUEST_S = 5.0
_CONNECTIONS = 8
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
_PASSING = {408, 425, 429}
_ACCEPT = "application/vnd.schemaregistry.v1+json, application/json"


class SchemaRegistry:
    """One conversation with a registry, which ends `deadline_s` after it began, retries included.

    Calls raise RegistryUnavailable where there is no answer by then, and ConfigurationError where the
    answer shows that asking again would not help.
    """

    def __init__(self, url: str, deadline_s: float = DEADLINE_S) -> None:
        given = httpx.URL(url)
        self.url = str(given.copy_with(userinfo=b"")).rstrip("/")
        self._deadline_s = deadline_s
        self._until = asyncio.get_running_loop().time() + deadline_s
        self._http = httpx.AsyncClient(
            base_url=self.url,
            auth=httpx.BasicAuth(given.username, given.password) if given.userinfo else None,
            headers={"Accept": _ACCEPT},
            timeout=httpx.Timeout(min(_REQUEST_S, deadline_s), pool=None),
            limits=httpx.Limits(max_connections=_CONNECTIONS),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ids(self, schemas: Iterable[Registered]) -> list[int | None]:
        """The id of each schema under its subject; None where the registry has not got it.

        What is the same schema is the registry's to say: some look past documentation.
        """
        return await _all(self._id(r.subject, r.definition) for r in schemas)

    async def versions(self, subject: str) -> list[dict[str, Any]]:
        """All versions of a subject, the oldest first; empty where it does not exist."""
        path = f"subjects/{quote(subject, safe='')}/versions"
        numbers = await self._ask("GET", path, kind=list) or []
        found = await _all(self._ask("GET", f"{path}/{number}") for number in numbers)
        definitions = [_parsed(said) for said in found if said is not None]
        return [definition for definition in definitions if definition is not None]

    async def definitions(self, ids: Iterable[int]) -> dict[int, dict[str, Any]]:
        """The Avro records with these ids; without those that are unknown or something else."""
        ids = list(ids)
        found = zip(ids, await _all(map(self._definition, ids)), strict=True)
        return {i: definition for i, definition in found if definition is not None}

    async def check(self, subject: str, definition: dict[str, Any]) -> None:
        """Raise SchemaIncompatible where the registry's own rules forbid it as the next version."""
        path = f"compatibility/subjects/{quote(subject, safe='')}/versions/latest"
        said = await self._ask("POST", path, definition, {"verbose": "true"})
        if said is not None and not said.get("is_compatible", True):
            raise self._incompatible(subject, "; ".join(said.get("messages") or ()))

    async def register(self, subject: str, definition: dict[str, Any]) -> int:
        """Add a version, or find it; returns its id. Raises SchemaIncompatible."""
        schema_id = await self._id(subject, definition, "/versions")
        if schema_id is None:
            raise self._strange("POST", f"subjects/{subject}/versions", "that there is no such subject")
        return schema_id

    async def _id(self, subject: str, definition: dict[str, Any], action: str = "") -> int | None:
        path = f"subjects/{quote(subject, safe='')}{action}"
        said = await self._ask("POST", path, definition)
        if said is not None and not isinstance(said.get("id"), int):
            raise self._strange("POST", path, f"no id in {said!r}")
        return None if said is None else int(said["id"])

    async def _definition(self, schema_id: int) -> dict[str, Any] | None:
        found = await self._ask("GET", f"schemas/ids/{schema_id}")
        if found is None or found.get("schemaType", "AVRO") != "AVRO":
            return None
        return _parsed(found)

    async def _ask(
        self,
        method: str,
        path: str,
        definition: dict[str, Any] | None = None,
        query: dict[str, str] | None = None,
        kind: type = dict,
    ) -> Any:
        """The answer's JSON; None where the registry says that there is no such thing."""
        body = None if definition is None else {"schema": _text(definition)}
        answer = await self._answer(method, path, body, query)
        try:
            said = answer.json()
        except ValueError as error:
            raise self._strange(method, path, f"status {answer.status_code}, no JSON") from error
        if answer.is_success and isinstance(said, kind):
            return said
        code = said.get("error_code") if isinstance(said, dict) else None
        why = str(said.get("message", "")) if isinstance(said, dict) else ""
        if isinstance(code, int) and 40400 < code < 40500:
            return None
        if answer.status_code == 409:
            raise self._incompatible(path.split("/")[-2], why)
        if code == 42205 or answer.status_code == 405:
            raise ConfigurationError(
                f"the schema registry at {self.url} takes no new schemas: {why or 'it is read-only'}",
                hint="register them where it may be written to: `headwater schemas list` names them",
            )
        raise self._strange(method, path, f"status {answer.status_code}: {why or answer.text[:200]}")

    async def _answer(
        self, method: str, path: str, body: Any, query: dict[str, str] | None
    ) -> httpx.Response:
        """The first answer that is one; what passes is waited out."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                answer = await self._http.request(method, path, json=body, params=query)
            except httpx.TransportError as error:
                why = str(error) or type(error).__name__
            else:
                if answer.status_code in (401, 403):
                    raise ConfigurationError(
                        f"the schema registry at {self.url} refuses the credentials "
                        f"({answer.status_code} for {method} {path})",
                        hint="HEADWATER_REGISTRY has them: https://user:password@host",
                    )
                if answer.status_code < 500 and answer.status_code not in _PASSING:
                    return answer
                why = f"status {answer.status_code}: {answer.text[:200]}"
            if asyncio.get_running_loop().time() + pause_s > self._until:
                raise RegistryUnavailable(
                    f"the schema registry at {self.url} did not answer within {self._deadline_s:g} s ({why})",
                    hint="start it, or set HEADWATER_REGISTRY to where it is; "
                    "SSL_CERT_FILE names the certificates of a private CA",
                )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _incompatible(self, subject: str, why: str) -> SchemaIncompatible:
        return SchemaIncompatible(
            f"the schema registry at {self.url} has another {subject}, which ours may not follow"
            + (f": {why}" if why else ""),
            hint="somebody registered it before: use another registry or a context of your own in it",
        )

    def _strange(self, method: str, path: str, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.url} does not answer as a schema registry does: {method} {path} gave {why}",
            hint="HEADWATER_REGISTRY is where Confluent's API is, with its path (Apicurio: /apis/ccompat/v7)",
        )


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What the calls return; the first error ends the others, too."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def _text(definition: dict[str, Any]) -> str:
    """A schema as it is sent. Apicurio 3.3 takes the text "{}" for an object: escaped it is the same JSON."""
    return json.dumps(definition).replace('"{}"', '"\\u007b}"')


def _parsed(said: dict[str, Any]) -> dict[str, Any] | None:
    """The schema in an answer; None where it is no Avro record, as all of ours are."""
    try:
        definition = json.loads(said["schema"])
    except (KeyError, TypeError, ValueError):
        return None
    return definition if isinstance(definition, dict) else None
