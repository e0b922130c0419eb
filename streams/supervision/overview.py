"""The whole instance at a glance, for `headwater status` and the live display: processes, rates, lag."""

from __future__ import annotations

import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import psutil

from streams.disk import obstacle, scarcest
from streams.settings import Settings
from streams.supervision.instance import instance_lock, ports
from streams.supervision.status import Status, read_all

ORDER = ("broker", "folds", "reactors", "views", "memory", "serve", "fleet", "simulate", "up")
_RATE_WINDOW_S = 5.0
_MEMORY_EVERY_S = 15.0


@dataclass(frozen=True)
class ProcessView:
    """One process. `cpu` is a share of one core since the last look, `pss_bytes` its share of memory."""

    name: str
    state: str
    pid: int | None
    restarts: int
    since: float | None
    """When it started, seconds since 1970."""
    cpu: float | None
    pss_bytes: int | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Overview:
    """What runs and how far it is. Rates are events a second; lags are records not yet read."""

    processes: list[ProcessView]
    folds: dict[str, dict[str, Any]] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    events_in: int = 0
    events_out: int = 0
    rate_in: float = 0.0
    rate_out: float = 0.0

    @property
    def running(self) -> bool:
        """Whether any process runs."""
        return any(p.pid is not None for p in self.processes)

    @property
    def pss_bytes(self) -> int:
        """Memory of all processes together: shared pages count once."""
        return sum(p.pss_bytes or 0 for p in self.processes)

    @property
    def cpu(self) -> float:
        """Cores in use, all processes together."""
        return sum(p.cpu or 0.0 for p in self.processes)


class Observer:
    """Looks at an instance again and again; what it costs is a few small files and /proc."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.latest: Overview | None = None
        self._known: dict[int, psutil.Process] = {}
        self._memory: dict[int, tuple[float, int]] = {}
        self._counts: deque[tuple[float, int, int]] = deque()

    def look(self) -> Overview:
        """How things are now."""
        said = read_all(self.settings)
        processes = self._processes(said)
        folds = _facts(said, "folds").get("folds", {})
        views = _facts(said, "views").get("views", {})
        events_in, events_out = _counts(folds)
        rate_in, rate_out = self._rates(events_in, events_out)
        self.latest = Overview(processes, folds, views, events_in, events_out, rate_in, rate_out)
        return self.latest

    def _processes(self, said: dict[str, Status]) -> list[ProcessView]:
        up = said.get("up")
        facts = up["facts"] if up is not None and up["alive"] else {}
        pids, states, restarts, errors = (facts.get(k, {}) for k in ("pids", "states", "restarts", "errors"))
        names = {*said, *states}
        seen = []
        for name in sorted(names, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n)):
            own = said.get(name)
            pid = pids.get(name)
            if name not in pids and own is not None and own["alive"]:
                pid = own["facts"].get("pid", own["pid"])
            state = states.get(name) or (
                own["state"] if own and own["alive"] else "dead" if own else "stopped"
            )
            born, cpu, pss = self._cost(pid)
            said_itself = own["facts"] if own is not None and name != "up" else {}
            seen.append(
                ProcessView(
                    name,
                    state,
                    pid,
                    int(restarts.get(name, 0)),
                    born,
                    cpu,
                    pss,
                    said_itself | ({"error": errors[name]} if name in errors else {}),
                )
            )
        return seen

    def _cost(self, pid: int | None) -> tuple[float | None, float | None, int | None]:
        """When it started, the share of a core that it takes, its memory."""
        if pid is None:
            return None, None, None
        try:
            process = self._known.get(pid)
            if process is None:
                process = self._known[pid] = psutil.Process(pid)
                process.cpu_percent()  # the first call only sets the mark
            return process.create_time(), process.cpu_percent() / 100, self._pss(process)
        except psutil.Error:
            self._known.pop(pid, None)
            return None, None, None

    def _pss(self, process: psutil.Process) -> int:
        """Proportional set size; adding it up costs the kernel a walk, so it is kept for a while."""
        now = time.monotonic()
        at, value = self._memory.get(process.pid, (0.0, 0))
        if not value or now - at > _MEMORY_EVERY_S:
            try:
                value = getattr(process.memory_full_info(), "pss", 0) or process.memory_info().rss
            except psutil.AccessDenied:
                value = process.memory_info().rss
            self._memory[process.pid] = (now, value)
        return int(value)

    def _rates(self, events_in: int, events_out: int) -> tuple[float, float]:
        now = time.monotonic()
        if self._counts and (events_in < self._counts[-1][1] or events_out < self._counts[-1][2]):
            self._counts.clear()  # the process was started anew and counts from zero
        self._counts.append((now, events_in, events_out))
        while len(self._counts) > 2 and now - self._counts[0][0] > _RATE_WINDOW_S:
            self._counts.popleft()
        at, first_in, first_out = self._counts[0]
        if now - at < 0.1:
            return 0.0, 0.0
        return (events_in - first_in) / (now - at), (events_out - first_out) / (now - at)


def _facts(said: dict[str, Status], name: str) -> dict[str, Any]:
    own = said.get(name)
    return own["facts"] if own is not None and own["alive"] else {}


def _counts(folds: dict[str, dict[str, Any]]) -> tuple[int, int]:
    """Events that entered (each passes intake once), and events that folds wrote."""
    entered = folds.get("intake", {}).get("events")
    if entered is None:
        entered = sum(int(f.get("events", 0)) for f in folds.values())
    return int(entered), sum(int(f.get("outputs", 0)) for f in folds.values())


def total_lag(facts: dict[str, dict[str, Any]]) -> int | None:
    """The lags of folds or views added up; None where none is known."""
    lags = [int(f["lag"]) for f in facts.values() if f.get("lag") is not None]
    return sum(lags) if lags else None


def reachable(address: str, timeout_s: float = 0.5) -> bool:
    """Whether one of `host:port,…` accepts a connection."""
    for one in address.split(","):
        host, _, port = one.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
        except (OSError, ValueError):
            continue
        return True
    return False


def as_json(settings: Settings, seen: Overview) -> dict[str, Any]:
    """What `headwater status --json` answers."""
    lock, found = instance_lock(settings), obstacle(settings)
    return {
        "running": seen.running,
        "up_pid": lock.holder() if lock.is_held() else None,
        "data": str(settings.data),
        "kafka": {
            "bootstrap": settings.bootstrap,
            "embedded": settings.embedded,
            "namespace": settings.namespace,
            "reachable": reachable(settings.bootstrap),
        },
        "disk": {
            "free_bytes": scarcest(settings)[1],
            "reserve_bytes": settings.disk_reserve_bytes if settings.embedded else None,
            "error": None if found is None else str(found),
        },
        "schema_ids": {
            "authority": "committed" if settings.registry is None else "registry",
            "registry": settings.registry_url,
        },
        "ports": ports(settings),
        "urls": {"api": settings.api_url, "docs": f"{settings.api_url}/docs"},
        "processes": {
            p.name: {
                "state": p.state,
                "pid": p.pid,
                "restarts": p.restarts,
                "uptime_s": round(time.time() - p.since, 1) if p.since else None,
                "cpu": round(p.cpu, 3) if p.cpu is not None else None,
                "pss_bytes": p.pss_bytes,
                "facts": p.facts,
            }
            for p in seen.processes
        },
        "counts": {
            "events": seen.events_in,
            "outputs": seen.events_out,
            "dead_letters": sum(int(f.get("dead_letters", 0)) for f in seen.folds.values()),
        },
        "rates": {"events_per_s": round(seen.rate_in, 1), "outputs_per_s": round(seen.rate_out, 1)},
        "lag": {
            "folds": {n: f.get("lag") for n, f in seen.folds.items()},
            "views": {n: v.get("lag") for n, v in seen.views.items()},
            "folds_total": total_lag(seen.folds),
            "views_total": total_lag(seen.views),
        },
        "pss_bytes": seen.pss_bytes,
    }
