"""Where a log ends by its files alone, and which of them Kafka makes anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streams.backup.moment import Moment
from streams.backup.segments import ends, without_scrap

FIRST, SECOND = f"{0:020d}", f"{7:020d}"


def batch(base: int, records: int) -> bytes:
    """A batch as a broker writes it, from offset `base` on."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for number in range(records):
        assert builder.append(number, 1_600_000_000_000, b"key", b"value %d" % number, [])
    return base.to_bytes(8) + bytes(builder.build())[8:]


def ends_of(folder: Path) -> dict[str, list[int]]:
    """Of a folder's files as they are now."""
    with Moment() as moment:
        moment.hold(folder, lambda _: True)
        return ends(moment.files)


@pytest.mark.parametrize("tail", [b"", batch(12, 3)[:-1], batch(12, 3)[:20], b"\x00" * 100])
def test_where_a_log_ends(tmp_path: Path, tail: bytes) -> None:
    """After the last whole batch of the last segment, whatever was half written behind it."""
    folder = tmp_path / "agent.tool-calls-1"
    folder.mkdir()
    (folder / f"{FIRST}.log").write_bytes(batch(0, 7))
    (folder / f"{SECOND}.log").write_bytes(batch(7, 1) + batch(8, 4) + tail)
    other = tmp_path / "agent.tool-calls-0"
    other.mkdir()
    (other / f"{SECOND}.log").touch()
    (tmp_path / "meta.properties").touch()
    assert ends_of(tmp_path) == {"agent.tool-calls": [7, 12]}


def test_what_came_after_the_moment_does_not_count(tmp_path: Path) -> None:
    """A log that grows while its end is looked for ends where it ended."""
    folder = tmp_path / "signals-0"
    folder.mkdir()
    log = folder / f"{FIRST}.log"
    log.write_bytes(batch(0, 5))
    with Moment() as moment:
        moment.hold(tmp_path, lambda _: True)
        with log.open("ab") as file:
            file.write(batch(5, 5))
        assert ends(moment.files) == {"signals": [5]}


def test_what_is_left_out(tmp_path: Path) -> None:
    """Indexes of the segment that is written to, and what is deleted already; no other index, no half of a swap."""
    folder = tmp_path / "signals-0"
    folder.mkdir()
    kinds = ("log", "index", "timeindex", "txnindex", "snapshot")
    for name in (FIRST, SECOND):
        for kind in kinds:
            (folder / f"{name}.{kind}").touch()
    (folder / f"{FIRST}.log.deleted").touch()
    (folder / f"{FIRST}.log.swap").touch()
    (folder / f"{SECOND}.log.cleaned").touch()
    (folder / "leader-epoch-checkpoint").touch()
    with Moment() as moment:
        moment.hold(tmp_path, lambda _: True)
        left = {held.name.removeprefix("signals-0/") for held in without_scrap(moment.files)}
    assert left == {
        *(f"{FIRST}.{kind}" for kind in kinds),
        *(f"{SECOND}.{kind}" for kind in ("log", "txnindex", "snapshot")),
        f"{FIRST}.log.swap",
        f"{SECOND}.log.cleaned",
        "leader-epoch-checkpoint",
    }
