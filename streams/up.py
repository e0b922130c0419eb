"""`headwater up`: the supervisor with a face, either the live display or log lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import structlog

from streams.child import Level, rotate
from streams.logs import configure
from streams.overview import Observer, Overview
from streams.settings import Settings
from streams.supervisor import Supervisor

REFRESH_S = 0.5
FINDINGS_S = 2.0
FINDINGS_AT_LEAST_EVERY_S = 15.0
_POLL_S = 0.1

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
    if not await _unless(stop, asyncio.create_task(supervisor.start())):
        face.say("info", "stopped before it was up")
        return
    try:
        async with face.shown(supervisor):
            await _unless(stop, asyncio.create_task(_milestones(supervisor, face, started)))
            await stop.wait()
            face.say("info", "stopping")
    finally:
        began = time.monotonic()
        await supervisor.stop()
        face.say("info", f"all stopped in {time.monotonic() - began:.1f} s")
        face.close()


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
    while observer.look().events_in == 0:  # noqa: ASYNC110 - likewise
        await asyncio.sleep(REFRESH_S)
    face.say("info", f"first event processed within {time.monotonic() - started:.1f} s of the start")


class Plain:
    """Log lines on stderr: for files, services and pipes."""

    def __init__(self, settings: Settings) -> None:
        configure(settings, "up")

    def say(self, level: Level, sentence: str) -> None:
        """Log a line."""
        getattr(log, level)(sentence)

    def close(self) -> None:
        """Nothing is held."""

    @contextlib.asynccontextmanager
    async def shown(self, _: Supervisor) -> AsyncIterator[None]:
        """Nothing is drawn."""
        yield


class Live:
    """The display, drawn twice a second; what is said goes to `$DATA/logs/up.log` as well."""

    def __init__(self, settings: Settings) -> None:
        from rich.console import Console  # noqa: PLC0415 - log lines do without

        from streams.display import Notes  # noqa: PLC0415

        self.settings = settings
        self.console = Console()
        self.notes = Notes()
        self.findings: list[dict[str, Any]] | None = None
        self._drawing = False
        rotate(settings.log_folder / "up.log")
        self._file = (settings.log_folder / "up.log").open("a")
        configure(settings, "up", self._file)

    def say(self, level: Level, sentence: str) -> None:
        """Show a line and log it."""
        getattr(log, level)(sentence)
        self.notes.add(level, sentence)
        if not self._drawing:
            self.console.print(sentence, style="dim" if level == "info" else "yellow", markup=False)

    def close(self) -> None:
        """Close the log file."""
        configure(self.settings, "up")
        self._file.close()

    @contextlib.asynccontextmanager
    async def shown(self, supervisor: Supervisor) -> AsyncIterator[None]:
        """Draw for as long as the block runs."""
        from rich.live import Live as Drawing  # noqa: PLC0415

        observer = Observer(self.settings)
        with Drawing(console=self.console, auto_refresh=False, vertical_overflow="crop") as drawing:
            self._drawing = True
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
                self._drawing = False

    async def _draw(self, drawing: Any, observer: Observer, supervisor: Supervisor) -> None:
        from streams.display import screen  # noqa: PLC0415

        while True:
            seen = observer.look()
            drawing.update(
                screen(
                    self.settings,
                    seen,
                    self.findings,
                    self.notes.lines,
                    width=self.console.width,
                    headline="running" if supervisor.ready else "starting",
                ),
                refresh=True,
            )
            await asyncio.sleep(REFRESH_S)

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
