"""One supervised child process: started, told to go, started again when it dies, stopped in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Literal

from schemas.errors import ConfigurationError
from streams.broker import die_with_parent
from streams.settings import Settings
from streams.supervision.process import SUPERVISED
from streams.supervision.status import read

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
STEADY_S = 60.0
"""A child that ran this long is taken to be well: its next restart waits the shortest time again."""
LOG_BYTES = 5 * 1024 * 1024
LOGS_KEPT = 3

Level = Literal["info", "warning", "error"]
Say = Callable[[Level, str], None]
"""Where the supervisor's own lines go: (level, sentence)."""


def rotate(path: Path, limit: int = LOG_BYTES, kept: int = LOGS_KEPT) -> None:
    """Move a log that outgrew `limit` bytes aside, to `x.log.1`, and older ones one further."""
    with contextlib.suppress(OSError):  # on a disk that takes no writes it cannot grow either
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size <= limit:
            return
        for number in range(kept - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))


class Child:
    """`python -m streams <arguments>` in a session of its own, its output in `$DATA/logs/<name>.log`.

    In a session of its own a terminal's Ctrl-C does not reach it: the supervisor decides the order.
    """

    def __init__(self, settings: Settings, name: str, say: Say, command: Sequence[str] | None = None) -> None:
        self.name = name
        self.restarts = 0
        self.error: str | None = None
        """Why it could not be started, where that is known."""
        self.log_path = settings.log_folder / f"{name}.log"
        self._status_path = settings.run_folder / f"{name}.json"
        self._command = list(command or (sys.executable, "-m", "streams", name))
        self._environment = _environment(settings)
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._go = asyncio.Event()
        self._stopping = False
        self._waiting = False
        self._ran_from = 0.0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    @property
    def state(self) -> str:
        """In a word: what it says of itself, or where the supervisor is with it."""
        if self._keeper is None:
            return "waiting"
        if self.pid is None:
            return "restarting" if self._waiting and not self._stopping else "stopped"
        if self._stopping:
            return "stopping"
        said = read(self._status_path)
        if said is None or said["pid"] != self.pid:
            return "starting"
        return str(said["state"])

    async def start(self) -> None:
        """Start it and keep it running. It imports, and waits until `go`."""
        rotate(self.log_path)
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    def go(self) -> None:
        """What it needs is there: let it run, now and after each restart."""
        self._go.set()
        self._say_go()

    def terminate(self) -> None:
        """Ask it to stop; it is not started again."""
        self._stopping = True
        if self._keeper is not None and self.pid is None:
            self._keeper.cancel()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now; it is not started again."""
        self._stopping = True
        self._signal(signal.SIGKILL)

    async def ended(self, timeout_s: float | None) -> bool:
        """Wait until it has ended after `terminate` or `kill`; False where it has not in time."""
        if self._keeper is None:
            return True
        done, _ = await asyncio.wait({self._keeper}, timeout=timeout_s)
        return bool(done)

    async def _spawn(self) -> None:
        with _opened(self.log_path) as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._waiting = False
        self._ran_from = time.monotonic()
        if self._go.is_set():
            self._say_go()

    def _say_go(self) -> None:
        if self._process is not None and self._process.stdin is not None and self.pid is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; the keeper sees it
                self._process.stdin.write(b"g")
                self._ran_from = time.monotonic()

    async def _keep(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            assert self._process is not None
            code = await self._process.wait()
            if self._stopping:
                return
            ran_s = time.monotonic() - self._ran_from
            if ran_s > STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            self._say(
                "warning",
                f"{self.name} ended {_how(code)} after {ran_s:.1f} s{self._why()}; "
                f"starting it again in {backoff_s:.1f} s (log: {self.log_path})",
            )
            self._waiting = True
            while self._waiting:
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
                self.restarts += 1
                try:
                    await self._spawn()
                    self.error = None
                except OSError as error:
                    self.error = f"cannot be started: {error}"
                    self._say("error", f"{self.name} {self.error}")
            self._say("info", f"{self.name} started again (pid {self.pid}, restart {self.restarts})")

    def _why(self) -> str:
        said = read(self._status_path)
        error = said["facts"].get("error") if said is not None and said["pid"] == self._last_pid else None
        return f": {error}" if error else ""

    @property
    def _last_pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


class Once:
    """A child that does one thing when told to go, such as `topics prepare`, and ends."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def spawn(cls, settings: Settings, *arguments: str) -> Once:
        """Start it, so that it imports while the broker boots."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "streams", *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_environment(settings),
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        )

    async def run(self) -> list[str]:
        """Let it go; returns the lines that it says. Raises ConfigurationError with its error."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(b"g")
            # Its input stays open while it works: the end of it would mean that we died.
            assert self._process.stdout is not None
            assert self._process.stderr is not None
            out, err = await asyncio.gather(self._process.stdout.read(), self._process.stderr.read())
            if await self._process.wait() != 0:
                message, _, hint = err.decode(errors="replace").strip().partition("\n")
                raise ConfigurationError(message.removeprefix("error: "), hint=hint.strip())
            return out.decode(errors="replace").splitlines()
        finally:
            if self._process.returncode is None:
                self._process.kill()


def _opened(path: Path) -> IO[bytes]:
    """A log to append to; nowhere where its disk takes no writes."""
    try:
        return path.open("ab")
    except OSError:
        return Path(os.devnull).open("ab")


def _environment(settings: Settings) -> dict[str, str]:
    """The child's: ours, with the settings that `up` itself was given or worked out."""
    return os.environ | {
        SUPERVISED: "1",
        "HEADWATER_DATA": str(settings.data),
        "HEADWATER_PORT": str(settings.port),
        "PYTHONUNBUFFERED": "1",
    }


def _how(code: int) -> str:
    if code >= 0:
        return f"with code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
