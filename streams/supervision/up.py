"""`headwater up`: the supervisor with a face, either the live display or log lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import structlog

from streams.logs import configure
from streams.settings import Settings
from streams.supervision.child import Level, rotate
from streams.supervision.overview import Observer, Overview
from streams.supervision.supervisor import Supervisor

REFRESH_S = 0.5
IDLE_REFRESH_S = 2.0
FINDINGS_S = 2.0
FINDINGS_AT_LEAST_EVERY_S = 15.0
_POLL_S = 0.1
_LONGEST_POLL_S = 5.0

log = structlog.get_logger()


async def up(settings: Settings, *, simulate: bool = True, agents: int = 12, plain: bool = False) -> None:
    """Run everything until SIGINT or SIGTERM; a second signal kills at once.

    Raises HeadwaterError where it cannot start.
    """
    face = Plain(settings) if plain else Live(settings)
    supervisor = Supervisor(settings, face.say, simulate=simulate, agents=agents)
    stop = asyncio.Event()

    def ask() -> None:
        if stop.is_set():
            supervisor.kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, ask)
    started = time.monotonic()
    supervisor.prepare()
    async with face.shown(supervisor):
        try:
            if await _unless(stop, asyncio.create_task(supervisor.start())):
                await _unless(stop, asyncio.create_task(_milestones(supervisor, face, started)))
            await stop.wait()
        finally:
            began = time.monotonic()
            face.say("info", "stopping")
            await supervisor.stop()
            face.say("info", f"all stopped in {time.monotonic() - began:.1f} s")


async def _unless(stop: asyncio.Event, task: asyncio.Task[None]) -> bool:
    """Wait for `task`; cancelled when `stop` comes first. Whether it was done."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        await task
        return True
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return False


async def _milestones(supervisor: Supervisor, face: Plain | Live, started: float) -> None:
    """Say when all is up, and when the first event has been processed."""
    observer = Observer(supervisor.settings)
    while not supervisor.ready:  # noqa: ASYNC110 - it is read from files that others write
        await asyncio.sleep(_POLL_S)
    settings = supervisor.settings
    face.say(
        "info",
        f"ready after {time.monotonic() - started:.1f} s: API {settings.api_url} "
        f"(docs {settings.api_url}/docs), Kafka {settings.bootstrap}, data {settings.data}",
    )
    pause_s = REFRESH_S
    while observer.look().events_in == 0:
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.2, _LONGEST_POLL_S)  # nobody may ever send one
    face.say("info", f"first event processed within {time.monotonic() - started:.1f} s of the start")


class Plain:
    """Log lines on stderr: for files, services and pipes."""

    def __init__(self, settings: Settings) -> None:
        configure(settings, "up")

    def say(self, level: Level, sentence: str) -> None:
        """Log a line."""
        getattr(log, level)(sentence)

    @contextlib.asynccontextmanager
    async def shown(self, _: Supervisor) -> AsyncIterator[None]:
        """Nothing is drawn."""
        yield


class Live:
    """The display, drawn twice a second; what is said goes to `$DATA/logs/up.log` as well."""

    def __init__(self, settings: Settings) -> None:
        from rich.console import Console  # noqa: PLC0415 - log lines do without

        from streams.supervision.display import Notes  # noqa: PLC0415

        self.settings = settings
        self.console = Console()
        self.notes = Notes()
        self.findings: list[dict[str, Any]] | None = None

    def say(self, level: Level, sentence: str) -> None:
        """Show a line and log it."""
        getattr(log, level)(sentence)
        self.notes.add(level, sentence)

    @contextlib.asynccontextmanager
    async def shown(self, supervisor: Supervisor) -> AsyncIterator[None]:
        """Draw for as long as the block runs."""
        from rich.live import Live as Drawing  # noqa: PLC0415

        observer = Observer(self.settings)
        path = self.settings.log_folder / "up.log"
        rotate(path)
        with path.open("a") as file, Drawing(console=self.console, auto_refresh=False) as drawing:
            configure(self.settings, "up", file)
            tasks = [
                asyncio.create_task(self._draw(drawing, observer, supervisor)),
                asyncio.create_task(self._find(observer)),
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                drawing.update(self._screen(_stopped(observer.latest), "stopped"), refresh=True)
                configure(self.settings, "up")

    async def _draw(self, drawing: Any, observer: Observer, supervisor: Supervisor) -> None:
        drawn_at, drawn = 0.0, None
        while True:
            seen = observer.look()
            # An idle instance is drawn rarely: nothing in it changes but the time that it is up.
            moves = (
                seen.events_in,
                seen.events_out,
                supervisor.state,
                *self.notes.lines,
                *(p.state for p in seen.processes),
            )
            if moves != drawn or time.monotonic() - drawn_at > IDLE_REFRESH_S:
                drawn_at, drawn = time.monotonic(), moves
                drawing.update(self._screen(seen, supervisor.state), refresh=True)
            await asyncio.sleep(REFRESH_S)

    def _screen(self, seen: Overview, headline: str) -> Any:
        from streams.supervision.display import screen  # noqa: PLC0415

        return screen(
            self.settings,
            seen,
            self.findings,
            self.notes.lines,
            width=self.console.width,
            height=self.console.height,
            headline=headline,
        )

    async def _find(self, observer: Observer) -> None:
        """Ask the API for the latest findings when folds have written something, else rarely."""
        last: tuple[int, float] = (-1, 0.0)
        while True:
            await asyncio.sleep(FINDINGS_S)
            written, now = _outputs(observer.latest), time.monotonic()
            if self.findings is not None and written == last[0] and now - last[1] < FINDINGS_AT_LEAST_EVERY_S:
                continue
            found = await asyncio.to_thread(latest_findings, self.settings)
            if found is not None:
                self.findings, last = found, (written, now)


def _stopped(seen: Overview | None) -> Overview:
    """The last picture: what was counted, and nothing running."""
    if seen is None:
        return Overview([])
    over = [
        replace(p, state="stopped", pid=None, cpu=None, pss_bytes=None, since=None) for p in seen.processes
    ]
    return replace(seen, processes=over, rate_in=0.0, rate_out=0.0)


def _outputs(seen: Overview | None) -> int:
    return seen.events_out if seen is not None else 0


def latest_findings(settings: Settings, limit: int = 5) -> list[dict[str, Any]] | None:
    """The newest anomalies of all projects, from the API; None while it does not answer."""
    try:
        # Read, not made: that is for `serve` to do.
        key = settings.api_key.get_secret_value() if settings.api_key else read_key(settings)
        request = urllib.request.Request(  # noqa: S310 - our own address, http
            f"{settings.api_url}/v1/anomalies?limit={limit}",
            headers={"Authorization": f"Bearer {key}"},
        )
        with urllib.request.urlopen(request, timeout=2.0) as answer:  # noqa: S310
            items = json.load(answer)["items"]
    except (OSError, ValueError, KeyError):  # URLError and JSONDecodeError are among them
        return None
    return [dict(item) for item in items]


def read_key(settings: Settings) -> str:
    """The embedded instance's own API key; raises OSError while there is none."""
    return (settings.data / "api-key").read_text().strip()
