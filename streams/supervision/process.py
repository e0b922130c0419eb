"""Hosts one process (`folds`, `views`, `serve`, …): logs, signals, status, metrics, and its parent's death.

Under `headwater up` a process imports at once and waits on its standard input for the word that
the broker is there. The pipe's end is the parent's death, whatever the parent died of: on Linux the
kernel kills the process then (PR_SET_PDEATHSIG), elsewhere the watching thread ends it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable

import structlog

from schemas.errors import HeadwaterError
from streams.logs import configure
from streams.settings import Settings
from streams.supervision import metrics
from streams.supervision.status import ProcessStatus

Run = Callable[[Settings, asyncio.Event], Awaitable[None]]
SUPERVISED = "HEADWATER_SUPERVISED"
PUBLISH_S = 5.0
STOP_DEADLINE_S = 10.0
_ORPHANED = 70

log = structlog.get_logger()


def supervised() -> bool:
    """Whether `headwater up` started this process."""
    return SUPERVISED in os.environ


def wait_for_go() -> None:
    """Wait until the supervisor says that all is there for us; end with it from then on."""
    if os.read(0, 1) == b"":
        os._exit(_ORPHANED)
    threading.Thread(target=_end_with_parent, name="parent watch", daemon=True).start()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(_ORPHANED)


def host(settings: Settings, name: str, load: Callable[[], Run]) -> None:
    """Run one process in the foreground until SIGINT or SIGTERM.

    `load` does the heavy imports. What the process raises is left to the caller, after it was
    written to the status file as `error`.
    """
    configure(settings, name)
    status = ProcessStatus(settings, name)
    status.set("starting")
    try:
        run = load()
        if supervised():
            wait_for_go()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_until_stopped(settings, name, run))
    except HeadwaterError as error:
        status.set("failed", error=str(error))
        raise
    except Exception as error:
        status.set("failed", error=f"{type(error).__name__}: {error}")
        log.exception("process.failed")
        raise SystemExit(1) from error
    status.close()
    if supervised():
        # All is closed and committed; taking the interpreter apart would cost half a second of the five
        # that stopping may take.
        logging.shutdown()
        os._exit(0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - there is none on Windows

    return uvloop.new_event_loop


async def _until_stopped(settings: Settings, name: str, run: Run) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(run(settings, stop))

    def ask() -> None:
        if stop.is_set():  # asked twice: at once
            work.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    publishing = asyncio.create_task(_publish(settings, name))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        done, _ = await asyncio.wait({work}, timeout=STOP_DEADLINE_S)
        if not done:
            log.warning("process.cut_off", after_s=STOP_DEADLINE_S)
            work.cancel()
        await work
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
    finally:
        stopping.cancel()
        publishing.cancel()


async def _publish(settings: Settings, name: str) -> None:
    """Leave this process's metrics for `serve` to show."""
    while True:
        metrics.publish(settings, name)
        await asyncio.sleep(PUBLISH_S)
