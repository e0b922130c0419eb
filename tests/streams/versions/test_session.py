"""What the commands say of a log before they do anything."""

from __future__ import annotations

from processors.versions import by_name
from streams.cli.folds import _described
from streams.versions.cut_over import Asked
from streams.versions.session import Session
from tests.streams.folds import Chain
from tests.streams.harness import CODEC, SIGNALS, Partition
from tests.streams.versions.successors import Chain2, Chain3
from tests.streams.versions.test_task import began, put


def session_on(bed: Partition) -> Session:
    """As a command has it, on a log in memory."""
    return Session(bed.log, CODEC, bed.decisions, by_name(bed.folds()), {SIGNALS: 1})


async def test_part_of_history() -> None:
    """Where the oldest records were removed a version that folds anew sees part of history, and that is said."""
    bed = await began(lambda: [Chain(), Chain2(), Chain3()])
    put(bed, 20)
    await bed.drain(await bed.up())
    at = session_on(bed)
    refold, migrate = at.cut_over(Asked("chain", 2)), at.cut_over(Asked("chain", 3))
    assert await at.part_of_history([(SIGNALS, 0)]) is None
    assert "warning" not in await _described(at, refold)
    bed.log.firsts[SIGNALS, 0] = 5
    assert "no longer begins at its first record in signals/0" in (
        await at.part_of_history([(SIGNALS, 0)]) or ""
    )
    assert "warning: the log no longer begins at its first record" in await _described(at, refold)
    assert "warning" not in await _described(at, migrate)
