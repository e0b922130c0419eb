"""The read half of the Confluent Schema Registry API, so that foreign clients decode our topics unchanged.

Paths, bodies and error codes are Confluent's; nothing can be registered or changed here.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from schemas.errors import HeadwaterError
from schemas.registry import Registered, Registry
from streams.gateway.auth import Guard
from streams.gateway.body import BodyTooLarge, BodyTooSlow, parse_json, read_body
from streams.gateway.lookup import Lookup, RegistryError

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
_MAX_BODY = 1024 * 1024


_LOOKUP_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        media_type: {
            "schema": {
                "type": "object",
                "properties": {"schema": {"type": "string"}, "schemaType": {"type": "string"}},
                "required": ["schema"],
            }
        }
        for media_type in ("application/json", MEDIA_TYPE)
    },
}


class ErrorBody(BaseModel):
    """Confluent's error."""

    error_code: int
    message: str


class SchemaById(BaseModel):
    """A schema by its id; Avro needs no `schemaType`."""

    schema_: Annotated[str, Field(serialization_alias="schema", description="Avro schema, JSON as text.")]


class Version(SchemaById):
    """One version of a subject."""

    subject: str
    version: int
    id: int


class SubjectVersion(BaseModel):
    """Where an id is used."""

    subject: str
    version: int


class _Route(APIRoute):
    """Answers in the registry's media type, and errors in its form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except RegistryError as error:
                return _error(error.status, error.code, error.message)
            except HTTPException as error:
                # Confluent's code for a missing key has two more digits than the status.
                code = 40101 if error.status_code == 401 else error.status_code
                return _error(error.status_code, code, str(error.detail), error.headers)
            except RequestValidationError as error:
                return _error(422, 422, "; ".join(str(e["msg"]) for e in error.errors()))
            if response.headers.get("content-type", "").startswith("application/json"):
                response.headers["content-type"] = MEDIA_TYPE
            return response

        return answer


def _text(registered: Registered) -> str:
    return orjson.dumps(registered.definition).decode()


def _version(registered: Registered) -> Version:
    return Version(
        subject=registered.subject,
        version=registered.version,
        id=registered.id,
        schema_=_text(registered),
    )


def _error(status: int, code: int, message: str, headers: Any = None) -> Response:
    body = ErrorBody(error_code=code, message=message).model_dump_json()
    return Response(body, status, headers, media_type=MEDIA_TYPE)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"schema": ErrorBody.model_json_schema()}}
    return {status: {"description": "Confluent's error", "content": content} for status in statuses}


_READ = _errors(401, 404, 422)
Id = Annotated[int, Path(description="As in a record's bytes 1 to 4.")]
Subject = Annotated[str, Path(description="A record's full name, such as `headwater.Signal`.")]
VersionPath = Annotated[str, Path(description="A number from 1, or `latest`.")]


def routes(registry: Registry, guard: Guard) -> APIRouter:
    """Routes under /registry. Any known key may read schemas: they belong to no project."""
    lookup = Lookup(registry)
    router = APIRouter(
        prefix="/registry", tags=["registry"], route_class=_Route, dependencies=[Depends(guard.tool)]
    )
    _by_id(router, lookup)
    _by_subject(router, lookup)
    _settings(router, lookup)
    _refusals(router)
    return router


def _by_id(router: APIRouter, lookup: Lookup) -> None:
    @router.get("/schemas/types", responses=_errors(401))
    async def list_schema_types() -> list[str]:
        """The kinds of schema: Avro alone."""
        return ["AVRO"]

    @router.get("/schemas/ids/{id}", responses=_READ)
    async def get_schema(id: Id) -> SchemaById:
        """The schema with this id; a query's `subject` is not needed, ids are the same everywhere."""
        return SchemaById(schema_=_text(lookup.by_id(id)))

    @router.get("/schemas/ids/{id}/schema", responses=_READ)
    async def get_plain_schema(id: Id) -> dict[str, Any]:
        """The schema itself."""
        return lookup.by_id(id).definition

    @router.get("/schemas/ids/{id}/subjects", responses=_READ)
    async def get_subjects_of_schema(id: Id) -> list[str]:
        """The subject that the id belongs to."""
        return [lookup.by_id(id).subject]

    @router.get("/schemas/ids/{id}/versions", responses=_READ)
    async def get_versions_of_schema(id: Id) -> list[SubjectVersion]:
        """The subject and version that the id belongs to."""
        found = lookup.by_id(id)
        return [SubjectVersion(subject=found.subject, version=found.version)]


def _by_subject(router: APIRouter, lookup: Lookup) -> None:
    @router.get("/subjects", responses=_errors(401))
    async def list_subjects() -> list[str]:
        """All subjects: one an event type."""
        return lookup.subjects()

    @router.get("/subjects/{subject}/versions", responses=_READ)
    async def list_versions(subject: Subject) -> list[int]:
        """The versions of a subject."""
        return [v.version for v in lookup.versions(subject)]

    @router.get("/subjects/{subject}/versions/{version}", responses=_READ)
    async def get_version(subject: Subject, version: VersionPath) -> Version:
        """One version of a subject."""
        return _version(lookup.version(subject, version))

    @router.get("/subjects/{subject}/versions/{version}/schema", responses=_READ)
    async def get_plain_version(subject: Subject, version: VersionPath) -> dict[str, Any]:
        """The schema of one version."""
        return lookup.version(subject, version).definition

    @router.post(
        "/subjects/{subject}",
        responses=_errors(400, 401, 404, 408, 413, 422),
        openapi_extra={"requestBody": _LOOKUP_BODY},
    )
    async def look_up(subject: Subject, request: Request) -> Version:
        """The version of a subject that has this schema."""
        try:
            body = parse_json(await read_body(request, _MAX_BODY))
        except HeadwaterError as error:
            code = {BodyTooLarge: 413, BodyTooSlow: 408}.get(type(error), 400)
            raise RegistryError(code, error.message) from error
        if not isinstance(body, dict) or not isinstance(body.get("schema"), str):
            raise RegistryError(42201, "the body has no `schema`: expected the Avro schema as text")
        if body.get("schemaType", "AVRO") != "AVRO":
            raise RegistryError(42201, f"schemaType {body['schemaType']!r} is not AVRO")
        return _version(lookup.same(subject, body["schema"]))


def _settings(router: APIRouter, lookup: Lookup) -> None:
    @router.get("/config", responses=_errors(401))
    async def get_config() -> dict[str, str]:
        """How a schema may change: each version reads what the earlier ones wrote."""
        return {"compatibilityLevel": "BACKWARD"}

    @router.get("/config/{subject}", responses=_READ)
    async def get_config_of_subject(subject: Subject) -> dict[str, str]:
        """The same for every subject."""
        lookup.versions(subject)
        return await get_config()

    @router.get("/mode", responses=_errors(401))
    async def get_mode() -> dict[str, str]:
        """Schemas are made from the code, and read here."""
        return {"mode": "READONLY"}

    @router.get("/mode/{subject}", responses=_READ)
    async def get_mode_of_subject(subject: Subject) -> dict[str, str]:
        """The same for every subject."""
        lookup.versions(subject)
        return await get_mode()


def _refusals(router: APIRouter) -> None:
    async def refuse(path: str) -> None:
        raise RegistryError(
            42205,
            f"cannot write {path}: this registry is in read-only mode. Event types are declared in "
            "Headwater's code and registered by `make schemas`; set auto.register.schemas to false",
        )

    async def unknown(path: str) -> None:
        raise RegistryError(404, f"HTTP 404 Not Found: /registry/{path}")

    writing = ["POST", "PUT", "PATCH", "DELETE"]
    router.add_api_route("/{path:path}", refuse, methods=writing, include_in_schema=False)
    router.add_api_route("/{path:path}", unknown, methods=["GET"], include_in_schema=False)
