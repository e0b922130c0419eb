"""What is answered to events that were posted: models, problems, and the status of the whole.

The status: 200 when every event was accepted, 207 when some were; otherwise the status that all
refusals share, or 422 when they differ.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi.responses import Response
from prometheus_client import Counter
from pydantic import BaseModel, Field

from projections.access import Forbidden
from projections.position import encode
from projections.problem import MEDIA_TYPE, RETRY_AFTER_S, Flaw, Problem
from schemas.errors import BrokerUnavailable, DiskFull, DiskReadOnly, HeadwaterError, RecordTooLarge
from streams.gateway.items import Flawed
from streams.supervision.metrics import REGISTRY

_KINDS: dict[type[HeadwaterError], tuple[int, str]] = {
    RecordTooLarge: (413, "record-too-large"),
    Forbidden: (403, "forbidden"),
    BrokerUnavailable: (503, "broker-unavailable"),
    DiskFull: (507, "disk-full"),
    DiskReadOnly: (503, "disk-read-only"),
}
_INVALID = (422, "invalid-event")
_EVENTS = Counter(
    "headwater_gateway_events", "Events posted, by what came of them.", ["outcome"], registry=REGISTRY
)


class Accepted(BaseModel):
    """An event that is in the log."""

    index: Annotated[int, Field(description="Of the item in the request, from 0.")]
    status: Literal["accepted"] = "accepted"
    id: str
    topic: str
    partition: int
    offset: int
    position: Annotated[str, Field(description="Send it as `at_least` to a view that shall know the event.")]
    warnings: list[str] = []


class Refused(BaseModel):
    """An event that is not in the log; with a problem of status 503: may be, send it again with its id."""

    index: int
    status: Literal["refused"] = "refused"
    id: Annotated[str | None, Field(description="Of the event, where it got one.")] = None
    problem: Problem


class Answer(BaseModel):
    """What came of each item, in the order of the request."""

    items: list[Accepted | Refused]
    accepted: int
    refused: int
    position: Annotated[str | None, Field(description="Of all accepted events together.")]


class NothingAccepted(Problem):
    """The problem when nothing was accepted; `items` says what was wrong with each item of a list."""

    items: Annotated[list[Refused], Field(default_factory=list)]


def problem_of(error: HeadwaterError, path: str, index: int, *, single: bool) -> Problem:
    """Why the item at `index` was refused; `where` of each flaw begins with its place in the body."""
    status, name = next((k for kind, k in _KINDS.items() if isinstance(error, kind)), _INVALID)
    part = "body" if single else f"body.{index}"
    flaws = error.flaws if isinstance(error, Flawed) else []
    return Problem(
        type=f"urn:headwater:problem:{name}",
        title=name.replace("-", " ").capitalize(),
        status=status,
        detail=error.message,
        instance=path if single else f"{path}#/{index}",
        hint=error.hint,
        errors=[Flaw(where=f"{part}.{f.where}".rstrip("."), what=f.what) for f in flaws],
    )


def respond(outcomes: list[Accepted | Refused], path: str, *, single: bool) -> Response:
    """The answer to a request with these outcomes, at least one."""
    refused = [o for o in outcomes if isinstance(o, Refused)]
    accepted = [o for o in outcomes if isinstance(o, Accepted)]
    _EVENTS.labels("accepted").inc(len(accepted))
    _EVENTS.labels("refused").inc(len(refused))
    if accepted:
        answer = Answer(
            items=outcomes, accepted=len(accepted), refused=len(refused), position=_together(accepted)
        )
        status = 207 if refused else 200
        return Response(answer.model_dump_json(), status, media_type="application/json")
    statuses = {o.problem.status for o in refused}
    status = statuses.pop() if len(statuses) == 1 else 422
    headers = {"Retry-After": str(RETRY_AFTER_S[status])} if status in RETRY_AFTER_S else {}
    if single:
        problem: Problem = refused[0].problem
    else:
        problem = NothingAccepted(
            type="urn:headwater:problem:nothing-accepted",
            title="Nothing accepted",
            status=status,
            detail=f"none of {len(refused)} events was accepted; the first: {refused[0].problem.detail}",
            instance=path,
            hint="each of `items` says what is wrong with it",
            items=refused,
        )
    return Response(problem.model_dump_json(), status, headers, media_type=MEDIA_TYPE)


def _together(accepted: list[Accepted]) -> str:
    position: dict[str, dict[int, int]] = {}
    for a in accepted:
        known = position.setdefault(a.topic, {})
        known[a.partition] = max(a.offset + 1, known.get(a.partition, 0))
    return encode(position)
