"""The data folder held as of one instant, whether its broker runs or not."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import BrokerUnavailable, ConfigurationError, HeadwaterError
from streams.backup import views
from streams.backup.moment import Moment, alone_in, lock_holder, standing_still, stands
from streams.broker import Broker
from streams.pidlock import PidLock
from streams.settings import Settings

SETTLE_S = 60.0
"""A broker that starts or stops is waited for."""
_POLL_S = 0.2
_OF_PROCESSES = ("run/", "logs/")
_HALVES = (".lock", ".tmp", ".new")
REPLACED, RESTORING = ".replaced-", ".restoring-"
"""How folders begin that a restore leaves, or left when it was killed."""


def is_kept(name: str) -> bool:
    """Whether a file of the data folder, or a folder with a slash at its end, belongs into a backup."""
    if name in _OF_PROCESSES or name.startswith((views.FILE, REPLACED, RESTORING)):
        return False
    return not name.endswith(_HALVES)


@contextmanager
def held(settings: Settings, data: Path, moment: Moment) -> Iterator[float | None]:
    """Hold a data folder's files; gives for how many milliseconds its broker stood still.

    None: it did not run, and does not start before the end of the block. Raises ConfigurationError where
    the files or the broker are out of reach, BrokerUnavailable where it neither runs nor stops, and at
    the end HeadwaterError where another took its place: what that recovers, it changes in place.
    """
    if not settings.embedded:
        moment.hold(data, lambda name: is_kept(name) and name != "kafka/")
        yield None
        return
    broker = Broker(settings.model_copy(update={"data": data}))
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        pid = lock_holder(broker.log_lock)
        if pid is not None:
            still_ms = _held_still(broker, _seen(pid), data, moment)
            if still_ms is not None:
                yield still_ms
                if lock_holder(broker.log_lock) not in (pid, None):
                    raise HeadwaterError(
                        "the broker was started anew while its log was copied", hint="take the backup again"
                    )
                return
        elif _is_ours(broker.lock):
            try:
                moment.hold(data, is_kept)
                yield None
            finally:
                broker.lock.release()
            return
        time.sleep(_POLL_S)
    raise BrokerUnavailable(
        f"the broker has not stood still in {SETTLE_S:.0f} s: it was starting or stopping, or another backup had it",
        hint="see `headwater status`",
    )


def _held_still(broker: Broker, pid: int, data: Path, moment: Moment) -> float | None:
    """Hold the files while the broker stands still, for so many milliseconds; None: it did not all the time."""
    first = len(moment.files)
    # Whoever ends first would let it go on under the other's hands.
    with alone_in(data) as alone:
        if not alone:
            return None
        with standing_still(pid) as still_ms:
            if lock_holder(broker.log_lock) == pid:
                moment.hold(data, is_kept)
            # Somebody else may have let it go on, or it was killed and another one has begun to recover.
            lasts = stands(pid) and lock_holder(broker.log_lock) == pid
    if not lasts:
        moment.let_go(first)
        return None
    return still_ms()


def _seen(pid: int) -> int:
    if pid == 0:
        raise ConfigurationError(
            "the broker's process cannot be seen from here",
            hint="take the backup where it runs: in its container",
        )
    return pid


def _is_ours(lock: PidLock) -> bool:
    """Whether no broker runs, nor starts while we have the lock."""
    try:
        return lock.take()
    except OSError as error:
        if error.errno == errno.EROFS:
            return True  # where nothing can be written no broker can run
        raise ConfigurationError(
            f"{lock.path} cannot be taken: {error.strerror}", hint="run it as the user that runs Headwater"
        ) from error
