"""The query API: views over HTTP. The application gives who asks, the store and how to wait for freshness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from projections.api import agents, components, effects, events, findings, rows, runs
from projections.api.door import Door, WaitFor
from projections.api.events import Follow
from projections.past import Log, Past
from projections.store import Store

VIEWS = ("events", "components", "agents", "runs", "anomalies", "dead_letters", "effects")


def create_router(
    store: Store,
    caller: Callable[..., Any],
    wait_for: WaitFor,
    follow: Follow | None = None,
    log: Log | None = None,
) -> APIRouter:
    """Routes under /v1. `caller` is a FastAPI dependency that gives a `projections.access.Caller` or raises.

    `follow` answers who wants events as they come; without it they come in pages only. Without `log` the
    past cannot be asked about.
    The application also calls `projections.problem.install`, which answers all errors raised here.
    """
    door = Door(store, caller, wait_for, None if log is None else Past(store, log))
    router = APIRouter()
    router.include_router(events.routes(door, follow))
    for part in (components, agents, runs, findings, effects):
        router.include_router(part.routes(door))
    router.include_router(rows.routes(door, store.views.keys() - set(VIEWS)))
    return router


__all__ = ["VIEWS", "Follow", "WaitFor", "create_router"]
