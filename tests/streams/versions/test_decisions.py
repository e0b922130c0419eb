"""Which version is in force where nobody has said so, and where its code is gone."""

from __future__ import annotations

import pytest
import structlog

from processors.versions import Versions, by_name
from schemas import topics
from schemas.events import FoldCutOver
from streams.partitions.memory_log import MemoryLog
from streams.versions.decisions import Decisions, VersionNotInstalled
from tests.streams.folds import Chain
from tests.streams.harness import CODEC
from tests.streams.versions.successors import Chain2, Chain3

COUNTS = {"signals": 2}


def log_of(*, read: bool = False) -> MemoryLog:
    """A log that folds have read, or not."""
    log = MemoryLog({"signals": 2, topics.FOLDS.name: 1})
    if read:
        log.positions["signals", 1] = 7
    return log


def installed(*folds: type[Chain]) -> dict[str, Versions]:
    """As `by_name` gives them."""
    return by_name([fold() for fold in folds])


async def established(log: MemoryLog, *folds: type[Chain]) -> int:
    """The version of `chain` that is in force after a worker with these has started."""
    decisions = Decisions(log, CODEC)
    with structlog.testing.capture_logs():
        await decisions.establish(installed(*folds), COUNTS, 1.0)
    return decisions.plan.folds["chain"].version


@pytest.mark.parametrize(("read", "version"), [(False, 3), (True, 1)])
async def test_nothing_was_decided(read: bool, version: int) -> None:
    """On a new log the newest version begins; where folds were at work, it can only have been the oldest."""
    assert await established(log_of(read=read), Chain, Chain2, Chain3) == version


async def test_installing_a_version_changes_nothing() -> None:
    """While the code of the version in force is there it stays in force, whatever else is installed."""
    log = log_of()
    assert await established(log, Chain) == 1
    assert await established(log, Chain, Chain2) == 1
    assert await established(log, Chain3, Chain) == 1
    assert len(log.records(topics.FOLDS.name, 0)) == 1


async def test_a_version_whose_code_is_gone_is_succeeded() -> None:
    """An update that brings the new version alone puts it in force, on the record and with a warning."""
    log = log_of()
    await established(log, Chain)
    decisions = Decisions(log, CODEC)
    with structlog.testing.capture_logs() as said:
        await decisions.establish(installed(Chain2, Chain3), COUNTS, 2.0)
    standing = decisions.plan.folds["chain"]
    assert (standing.version, standing.base) == (3, 1)
    assert standing.decided.reason == "version 1 is not installed any more"
    (warning,) = [entry for entry in said if entry["log_level"] == "warning"]
    assert (warning["event"], warning["in_force"], warning["takes_over"]) == ("versions.gone", 1, 3)


async def test_an_old_installation_is_refused() -> None:
    """Where only older code is installed than is in force, the process does not start, and says what to do."""
    log = log_of()
    await established(log, Chain2)
    with pytest.raises(VersionNotInstalled, match="version 2 is in force, installed here: 1") as refused:
        await established(log, Chain)
    assert "headwater folds cut-over chain --to 1 --at-once" in refused.value.hint
    assert await established(log, Chain, Chain2) == 2


async def test_going_back_is_not_undone_by_a_worker() -> None:
    """One that has only the version that was left does not start; one with a newer one still takes over."""
    log = log_of()
    await established(log, Chain)
    decisions = Decisions(log, CODEC)
    await decisions.refresh()
    for from_version, to in ((1, 2), (2, 1)):
        record = FoldCutOver(
            fold="chain",
            cut_over_id=f"to {to}",
            phase="decided",
            from_version=from_version,
            to_version=to,
            at_once=True,
            by="ann",
        )
        await decisions.write(record, 1.0)
    with pytest.raises(VersionNotInstalled, match="version 1 is in force, installed here: 2"):
        await established(log, Chain2)
    assert await established(log, Chain, Chain2) == 1
    assert await established(log, Chain3) == 3


async def test_two_workers_start_at_once() -> None:
    """Both find nothing decided, both decide, and both go by the one that stands first, or do not start."""
    log = log_of()
    old, new = Decisions(log, CODEC), Decisions(log, CODEC)
    post = log.post

    async def interrupted(send: object) -> None:
        log.post = post  # type: ignore[method-assign]
        await new.establish(installed(Chain, Chain2), COUNTS, 1.0)
        await post(send)  # type: ignore[arg-type]

    log.post = interrupted  # type: ignore[method-assign]
    with pytest.raises(VersionNotInstalled, match="version 2 is in force, installed here: 1"):
        await old.establish(installed(Chain), COUNTS, 1.0)
    assert len(log.records(topics.FOLDS.name, 0)) == 2
    assert old.plan.folds["chain"].version == new.plan.folds["chain"].version == 2


async def test_a_record_that_is_none_is_skipped() -> None:
    """Bytes of somebody else in the topic stop nobody."""
    log = log_of()
    log.append(topics.FOLDS.name, b"x", b"not an event", (), 0)
    assert await established(log, Chain) == 1
