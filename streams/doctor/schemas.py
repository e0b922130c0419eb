"""The doctor's look at schemas: whether they are the models', who gives their ids, whether these fit the log."""

from __future__ import annotations

from schemas.errors import HeadwaterError
from schemas.locks import registry
from schemas.registry import check as check_schemas
from streams.authority.issued import COMMITTED, as_issued, compare, issued_ids
from streams.authority.registering import Unregistered
from streams.codec import ids_of
from streams.doctor.extensions import gone
from streams.doctor.finding import Finding
from streams.settings import Settings
from streams.supervision.overview import reachable


def schemas() -> list[Finding]:
    """Whether our committed schemas are those of the models; packages' are looked at with their faults."""
    try:
        check_schemas()
    except HeadwaterError as error:
        return [Finding("schemas", "fail", error.message, error.hint)]
    return [Finding("schemas", "ok", "equal to the models")]


async def schema_ids(settings: Settings) -> list[Finding]:
    """Whether whoever gives the ids answers, has all schemas, and gives those that the log remembers."""
    by = settings.registry_url or COMMITTED
    known = []
    try:
        if settings.embedded or reachable(settings.bootstrap, 2.0):
            known = await issued_ids(settings).load()
        ids = await ids_of(settings)
        compare(known, as_issued(ids, by), (), by)
    except Unregistered as error:
        if not known:
            return [Finding("schema ids", "warn", error.message, "the first start registers them")]
        return [Finding("schema ids", "fail", error.message, error.hint)]
    except HeadwaterError as error:
        return [Finding("schema ids", "fail", error.message, error.hint)]
    fit = "as the log remembers them" if known else "the log remembers none yet"
    return [Finding("schema ids", "ok", f"{len(registry().by_id)} from {by}, {fit}"), *gone(known)]
