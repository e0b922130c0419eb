"""Taking a backup where no broker is: what is in it, what is not and is said, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from schemas.errors import ConfigurationError, DiskFull
from streams.backup import taking, views
from streams.backup.taking import backup
from streams.disk import free_bytes
from streams.settings import Settings
from tests.streams.backup.kept import KEPT, contents, fill, put_back, rows, settings_of, take
from tests.streams.disks import Ballast, read_only, small_disk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder."""
    fill(tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["b.tar", "b.tar.gz", "b.tgz"])
def test_what_is_kept_comes_back(folder: Path, tmp_path: Path, name: str) -> None:
    """Keys, secrets, views and all else are as they were; what running processes leave is not there."""
    taken = take(folder, tmp_path / name)
    assert taken.file_bytes == (tmp_path / name).stat().st_size
    put_back(tmp_path / name, tmp_path / "new")
    assert rows(tmp_path / "new") == [1, 2, 3]
    (tmp_path / "new" / "views.sqlite").unlink()
    assert contents(tmp_path / "new") == KEPT
    with (tmp_path / name).open("rb") as file:
        assert (file.read(2) == b"\x1f\x8b") == (name != "b.tar")


def test_it_is_for_its_owner_alone(folder: Path, tmp_path: Path) -> None:
    """The file has mode 0600 from its first byte on, whatever the umask; so has what is restored."""
    before = os.umask(0)
    try:
        take(folder, tmp_path / "b.tar")
        put_back(tmp_path / "b.tar", tmp_path / "new")
    finally:
        os.umask(before)
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "new").rglob("*") if p.is_file()}
    assert modes == {0o600}
    folders = {p.stat().st_mode & 0o777 for p in ((tmp_path / "new"), *(tmp_path / "new").rglob("*/"))}
    assert folders == {0o700}


def test_any_tar_and_sha256sum_read_it(folder: Path, tmp_path: Path) -> None:
    """Without Headwater the files can be had, and checked against the sums in the manifest."""
    take(folder, tmp_path / "b.tar")
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "xf", tmp_path / "b.tar", "-C", out], check=True)
    subprocess.run(["sha256sum", "--status", "-c", "manifest.json.sha256"], cwd=out, check=True)
    manifest = json.loads((out / "manifest.json").read_bytes())
    sums = "".join(f"{file['sha256']}  {file['name']}\n" for file in manifest["files"])
    subprocess.run(["sha256sum", "--status", "-c"], input=sums.encode(), cwd=out / "data", check=True)
    assert manifest["about"]["files"] == len(KEPT) + 1
    assert manifest["about"]["bytes"] == sum(file["size"] for file in manifest["files"])


def test_views_that_are_written_to_are_one_moment(folder: Path, tmp_path: Path) -> None:
    """A copy of the views has whole transactions: each of those here adds to two tables alike."""
    stop, wrote = threading.Event(), threading.Event()

    def write() -> None:
        connection = sqlite3.connect(folder / "views.sqlite")
        connection.execute("CREATE TABLE twins (n, padding)")
        while not stop.is_set():
            with connection:
                n = connection.execute("SELECT coalesce(max(n), 3) + 1 FROM rows").fetchone()[0]
                connection.execute("INSERT INTO rows VALUES (?)", (n,))
                connection.execute("INSERT INTO twins VALUES (?, ?)", (n, "x" * 20_000))
            if n > 500:
                wrote.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert wrote.wait(30)
        for number in range(3):
            take(folder, tmp_path / f"{number}.tar")
            put_back(tmp_path / f"{number}.tar", tmp_path / str(number))
            connection = sqlite3.connect(tmp_path / str(number) / "views.sqlite")
            twins = [n for (n,) in connection.execute("SELECT n FROM twins ORDER BY n")]
            assert twins == rows(tmp_path / str(number))[3:]
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            connection.close()
    finally:
        stop.set()
        thread.join()


def test_views_that_cannot_be_read_are_said_and_left_out(folder: Path, tmp_path: Path) -> None:
    """A broken database costs no backup: the log makes the views anew."""
    (folder / "views.sqlite").write_bytes(b"no database at all" * 100)
    taken = take(folder, tmp_path / "b.tar")
    assert any("views" in said and "made anew from the log" in said for said in taken.manifest.absent)
    put_back(tmp_path / "b.tar", tmp_path / "new")
    assert contents(tmp_path / "new") == KEPT


def test_what_is_elsewhere_is_said(folder: Path, tmp_path: Path) -> None:
    """The cluster's log, views in PostgreSQL, secrets of the environment, a registry: each with what copies it."""
    (folder / "kafka").mkdir()
    (folder / "kafka" / "old").touch()
    taken = take(
        folder,
        tmp_path / "b.tar",
        database="postgresql://user:hidden@db/headwater",
        api_key="a" * 20,
        snapshot_key="s",
        registry="http://me:hidden@registry:8081",
    )
    said = "\n".join(taken.manifest.absent)
    for words in (
        "kafka.example:9092", "MirrorMaker", "kafka/", "pg_dump", "views rebuild all", "HEADWATER_API_KEY",
        "HEADWATER_SNAPSHOT_KEY", "http://registry:8081",
    ):  # fmt: skip
        assert words in said
    assert "hidden" not in said
    assert taken.manifest.log is None
    names = {file.name for file in taken.manifest.files}
    assert not names & {"kafka/old", "views.sqlite"}


def test_places_that_will_not_do(folder: Path, tmp_path: Path) -> None:
    """A file that is there, the data folder itself, no folder: refused in words, and nothing is written."""
    before = contents(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    for path, words in (
        (folder / "api-key", "there already"),
        (folder / "b.tar", "in the data folder"),
        (tmp_path / "link" / "b.tar", "in the data folder"),
        (tmp_path / "absent" / "b.tar", "no folder"),
        (folder / "api-key" / "b.tar", "no folder"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            take(folder, path)
    with pytest.raises(ConfigurationError, match="no data folder"):
        take(tmp_path / "absent", tmp_path / "b.tar")
    with pytest.raises(ConfigurationError, match="there is no log"):
        backup(Settings(data=folder), tmp_path / "b.tar", lambda *_: None)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Is not replaced, with and without hard links on the file system."""
    path = tmp_path / "b.tar"
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        assert take(folder, tmp_path / "other.tar").file_bytes == (tmp_path / "other.tar").stat().st_size

    def appear(*_: object) -> None:
        path.write_text("mine")

    with pytest.raises(ConfigurationError, match="there already"):
        backup(settings_of(folder), path, appear)
    assert path.read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"data", "b.tar"} | (set() if links else {"other.tar"})


def test_a_disk_without_room(folder: Path, tmp_path: Path) -> None:
    """Seen before anything is written, or, where compression left it open, while it is: no half file stays."""
    (folder / "models" / "large").write_bytes(os.urandom(6_000_000))
    with small_disk(tmp_path / "disk", 4) as disk:
        with pytest.raises(DiskFull, match=r"takes 5\.. MiB"):
            take(folder, disk / "b.tar")
        with pytest.raises(DiskFull, match="No space left"):
            take(folder, disk / "b.tar.gz")
        assert list(disk.iterdir()) == []


def enlarge_views(folder: Path) -> None:
    """By 6 MiB."""
    with closing(sqlite3.connect(folder / "views.sqlite")) as connection:
        connection.execute("CREATE TABLE large (x)")
        connection.executemany("INSERT INTO large VALUES (?)", [(os.urandom(60_000),)] * 100)
        connection.commit()


def test_a_disk_without_room_for_the_views(folder: Path, tmp_path: Path) -> None:
    """They are not copied to where there is no room; a disk that fills up meanwhile is no broken database."""
    enlarge_views(folder)
    with small_disk(tmp_path / "disk", 4) as disk:
        with pytest.raises(DiskFull, match=r"takes 5\.. MiB"):
            take(folder, disk / "b.tar.gz")
        assert list(disk.iterdir()) == []
        with pytest.raises(sqlite3.Error) as raised:
            views.copy(folder / "views.sqlite", disk / "views.sqlite", lambda _: None)
        assert raised.value.sqlite_errorcode == sqlite3.SQLITE_FULL


def test_a_disk_that_is_filled_meanwhile(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By others, while the views are copied: said as what it is."""
    enlarge_views(folder)
    with small_disk(tmp_path / "disk", 4) as disk:
        monkeypatch.setattr(taking.Room, "check", lambda *_: None)
        with pytest.raises(DiskFull, match="does not fit"):
            take(folder, disk / "b.tar")
        assert list(disk.iterdir()) == []


def test_a_backup_from_a_disk_that_is_full_or_read_only(tmp_path: Path) -> None:
    """That is when it is wanted: it needs no room on the disk that it is of, and no right to write to it."""
    with small_disk(tmp_path / "disk", 4) as disk:
        log = disk / "data" / "kafka" / "log"
        log.mkdir(parents=True)
        (log / "meta.properties").write_text("version=1")
        Ballast(disk).fill()
        settings = Settings(data=disk / "data")
        assert backup(settings, tmp_path / "full.tar", lambda *_: None).manifest.about.files == 1
        with read_only(disk):
            assert backup(settings, tmp_path / "read-only.tar", lambda *_: None).manifest.about.files == 1


@pytest.mark.parametrize("name", ["b.tar", "b.tar.gz"])
def test_it_does_not_take_what_the_log_keeps_in_reserve(tmp_path: Path, name: str) -> None:
    """On the log's own disk a backup may not touch the reserve: events would be refused."""
    (tmp_path / "data" / "kafka" / "log").mkdir(parents=True)
    (tmp_path / "data" / "kafka" / "log" / "meta.properties").touch()
    with pytest.raises(DiskFull, match="in reserve for the log"):
        backup(Settings(data=tmp_path / "data", disk_reserve_bytes=2**60), tmp_path / name, lambda *_: None)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_it_ends_where_it_comes_to_that_reserve(tmp_path: Path) -> None:
    """How much a compressed one takes shows while it is written: it gives up in time, and leaves nothing."""
    with small_disk(tmp_path / "disk", 48) as disk:
        log = disk / "data" / "kafka" / "log"
        log.mkdir(parents=True)
        (log / "meta.properties").write_bytes(os.urandom(20 * 2**20))
        least: list[int] = []
        with pytest.raises(DiskFull, match="16 MiB are in reserve for the log"):
            backup(
                Settings(data=disk / "data", disk_reserve_bytes=16 * 2**20),
                disk / "b.tar.gz",
                lambda *_: least.append(free_bytes(disk)),
            )
        assert len(least) >= 2
        assert min(least) >= 16 * 2**20
        assert [p.name for p in disk.iterdir()] == ["data"]


def test_progress_reaches_the_end(folder: Path, tmp_path: Path) -> None:
    """What is told of progress grows up to all bytes, in either direction."""
    (folder / "models" / "large").write_bytes(bytes(20_000_000))
    for run in (
        lambda advance: backup(settings_of(folder), tmp_path / "b.tar", advance),
        lambda advance: _restore(tmp_path, advance),
    ):
        told: list[tuple[int, int]] = []
        run(lambda *now: told.append(now))  # noqa: B023 - called within this turn
        assert len(told) >= 4
        assert told == sorted(told)
        assert told[-1][0] == told[-1][1] > 20_000_000


def _restore(tmp_path: Path, advance: object) -> None:
    from streams.backup.restoring import restore

    restore(settings_of(tmp_path / "new"), tmp_path / "b.tar", advance)  # type: ignore[arg-type]


def test_headwater_tar_is_what_it_says(folder: Path, tmp_path: Path) -> None:
    """The first member says what the file is, the last two close it."""
    take(folder, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar") as tar:
        names = tar.getnames()
    assert names[0] == "headwater-backup.json"
    assert names[-2:] == ["manifest.json", "manifest.json.sha256"]
    assert all(name.startswith("data/") for name in names[1:-2])
