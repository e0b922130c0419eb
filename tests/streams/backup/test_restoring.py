"""Restoring: what is damaged, foreign or newer, and folders that will not do, are refused; nothing changes then."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from schemas.errors import ConfigurationError, DiskFull, HeadwaterError
from streams.backup import restoring
from streams.backup.reading import ArchiveRefused
from streams.backup.restoring import restore
from streams.backup.taking import backup
from streams.cli import app
from streams.settings import Settings
from streams.supervision.instance import instance_lock, take_instance
from streams.supervision.status import ProcessStatus
from tests.streams.backup.kept import KEPT, contents, fill, put_back, rows, settings_of, take
from tests.streams.disks import small_disk

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup."""
    folder = tmp_path_factory.mktemp("kept")
    fill(folder / "data")
    take(folder / "data", folder / "b.tar")
    return folder / "b.tar"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A folder that is not there."""
    return tmp_path / "new"


def refused(path: Path, new: Path, words: str = ".") -> None:
    """It is refused in words, and there is nothing in or beside the folder that was not there before."""
    before = contents(new.parent)
    with pytest.raises(ArchiveRefused, match=words) as caught:
        put_back(path, new)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert contents(new.parent) == before
    assert not new.exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_one_that_is_cut_off(archive: Path, new: Path, compressed: bool) -> None:
    """At whatever byte an archive ends too early, it is refused."""
    path = new.parent / "cut"
    whole = archive.read_bytes()
    if compressed:
        import gzip

        whole = gzip.compress(whole, 1)
    rng = random.Random(5)
    # Behind the manifest's sum comes nothing but padding.
    end = len(whole) - 100 if compressed else whole.rindex(b"manifest.json\n")
    for length in [0, 1, 511, 512, *(rng.randrange(end) for _ in range(60)), end - 1]:
        path.write_bytes(whole[:length])
        refused(path, new)


def test_one_that_was_changed(archive: Path, new: Path) -> None:
    """A byte changed anywhere is noticed, but where a tar has nothing but padding or times."""
    path = new.parent / "changed"
    whole = archive.read_bytes()
    rng = random.Random(6)
    harmless = 0
    for _ in range(150):
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        try:
            put_back(path, new)
        except ArchiveRefused:
            assert not new.exists()
        else:
            harmless += 1
            assert rows(new) == [1, 2, 3]
            (new / "views.sqlite").unlink()
            assert contents(new) == KEPT
            shutil.rmtree(new)
    assert harmless < 15


@pytest.mark.parametrize("content", [b"", b"no tar" * 1000, bytes(20_000), b"\x1f\x8b" + bytes(600)])
def test_what_is_no_backup(new: Path, content: bytes) -> None:
    """Any other file is named as what it is not."""
    path = new.parent / "other"
    path.write_bytes(content)
    refused(path, new)


def test_somebody_elses_tar(new: Path) -> None:
    """A tar that is whole, and nobody's backup."""
    path = new.parent / "other.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "data/api-key")
    refused(path, new, "is no backup of Headwater")


def changed(archive: Path, path: Path, change: Callable[[Members], Members]) -> Path:
    """An archive whose members somebody changed, with a manifest that fits itself again."""
    with tarfile.open(archive) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar.getmembers()]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for member, content in change(members):
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return path


def place_of(members: Members, name: str) -> int:
    """Where a member is."""
    return next(i for i, (m, _) in enumerate(members) if m.name == name)


def with_json(name: str, **values: Any) -> Callable[[Members], Members]:
    """Change fields of one of the two JSON members, and the manifest's sum with it."""

    def change(members: Members) -> Members:
        at, last = place_of(members, name), place_of(members, "manifest.json.sha256")
        content = json.dumps(json.loads(members[at][1]) | values).encode()
        members[at] = (members[at][0], content)
        if name == "manifest.json":
            members[last] = (members[last][0], f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode())
        return members

    return change


def with_member(name: str, **attributes: Any) -> Callable[[Members], Members]:
    """Put one more in, before the manifest."""

    def change(members: Members) -> Members:
        member = tarfile.TarInfo(name)
        for attribute, value in attributes.items():
            setattr(member, attribute, value)
        at = place_of(members, "manifest.json")
        return [*members[:at], (member, b"evil"), *members[at:]]

    return change


def test_one_of_a_newer_format(archive: Path, new: Path) -> None:
    """It names the version that made it."""
    change = with_json("headwater-backup.json", format=2, headwater="9.1", unheard="of")
    path = changed(archive, new.parent / "newer", change)
    refused(path, new, r"made by Headwater 9\.1 in format 2")


@pytest.mark.parametrize(("kafka", "well"), [("4.3.1", True), ("4.2.10", True), ("4.10.0", False)])
def test_the_log_of_a_newer_kafka(tmp_path: Path, new: Path, kafka: str, well: bool) -> None:
    """One that this version's broker could not read is refused; it reads what an older one has written."""
    settings = Settings(data=tmp_path / "data")
    (settings.data / "kafka" / "log").mkdir(parents=True)
    (settings.data / "kafka" / "log" / "meta.properties").touch()
    log = backup(settings, tmp_path / "b.tar", lambda *_: None).manifest.log
    assert log is not None
    change = with_json("manifest.json", log=msgspec.to_builtins(log) | {"kafka": kafka})
    path = changed(tmp_path / "b.tar", tmp_path / "other.tar", change)
    shutil.rmtree(settings.data)
    if well:
        assert put_back(path, new).replaced is None
    else:
        refused(path, new, r"written by Kafka 4\.10\.0, and this version runs")


@pytest.mark.parametrize("namespace", ["hw", "other"])
def test_another_namespace_is_said(new: Path, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another one the restored instance would look for topics that are not there."""
    fill(new.parent / "data")
    take(new.parent / "data", new.parent / "b.tar", namespace="other")
    monkeypatch.setenv("HEADWATER_NAMESPACE", namespace)
    run = CliRunner().invoke(app, ["restore", str(new.parent / "b.tar"), "--data", str(new)])
    assert run.exit_code == 0
    assert ("set HEADWATER_NAMESPACE=other" in run.output) == (namespace != "other")


EVIL = {
    "above": with_member("data/../../evil"),
    "absolute": with_member("/tmp/evil"),
    "absolute inside": with_member("data//tmp/evil"),
    "dots": with_member("data/a/./b"),
    "with a NUL": with_member("x", pax_headers={"path": "data/ev\0il"}),
    "bare": with_member("data/"),
    "elsewhere": with_member("evil"),
    "symlink": with_member("data/evil", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": with_member("data/evil", type=tarfile.LNKTYPE, linkname="data/api-key"),
    "device": with_member("data/evil", type=tarfile.CHRTYPE),
    "pipe": with_member("data/evil", type=tarfile.FIFOTYPE),
    "folder": with_member("data/evil", type=tarfile.DIRTYPE),
    "twice": with_member("data/api-key"),
    "below a file": with_member("data/api-key/evil"),
    "unlisted": with_member("data/evil"),
}


@pytest.mark.parametrize("name", EVIL)
def test_members_that_do_not_belong_there(archive: Path, new: Path, name: str) -> None:
    """Names that lead out of the folder, links, devices, and files that the manifest does not name."""
    refused(changed(archive, new.parent / "evil.tar", EVIL[name]), new, "damaged")


def test_one_with_more_than_it_says(archive: Path, new: Path) -> None:
    """Room is made for what its head says, and no more is written."""
    change = with_json("headwater-backup.json", bytes=1)
    path, told = changed(archive, new.parent / "more.tar", change), list[int]()
    with pytest.raises(ArchiveRefused, match="more than the 1 bytes that its head says"):
        restore(settings_of(new), path, lambda done, _: told.append(done))
    assert sum(told) <= 1
    assert not new.exists()


def test_one_with_a_link_under_a_name_of_ours(archive: Path, new: Path) -> None:
    """A link in the place of the manifest is not followed, either."""

    def change(members: Members) -> Members:
        member = members[place_of(members, "manifest.json")][0]
        member.type, member.linkname = tarfile.SYMTYPE, "data/api-key"
        return members

    refused(changed(archive, new.parent / "evil.tar", change), new, "damaged")


def without(name: str) -> Callable[[Members], Members]:
    """Leave one out."""
    return lambda members: [one for one in members if one[0].name != name]


OTHER: dict[str, Callable[[Members], Members]] = {
    "a file is missing": without("data/api-key"),
    "the manifest is missing": without("manifest.json"),
    "its sum is missing": without("manifest.json.sha256"),
    "its files are others": with_json("manifest.json", files=[]),
    "head and manifest differ": with_json("headwater-backup.json", taken="2020-01-01T00:00:00Z"),
    "not as it was declared": with_json("manifest.json", absent=7),
    "something follows": lambda members: [*members, (tarfile.TarInfo("more"), b"")],
}


@pytest.mark.parametrize("name", OTHER)
def test_manifests_that_do_not_fit(archive: Path, new: Path, name: str) -> None:
    """What is there has to be what the manifest says, all of it and nothing else."""
    refused(changed(archive, new.parent / "other.tar", OTHER[name]), new, "damaged")


def test_a_folder_that_is_not_empty(archive: Path, new: Path) -> None:
    """What is in it is named and stays; with force it is put aside, whole, and named again."""
    new.mkdir()
    (new / "keep").write_text("me")
    with pytest.raises(ConfigurationError, match="not empty: it has keep"):
        put_back(archive, new)
    assert contents(new.parent) == {"new/keep": b"me"}
    done = put_back(archive, new, force=True)
    assert done.replaced is not None
    assert done.replaced.parent == new.parent
    assert contents(done.replaced)["keep"] == b"me"
    assert rows(new) == [1, 2, 3]
    assert len(list(new.parent.iterdir())) == 2


def test_an_empty_folder_and_a_linked_one(archive: Path, new: Path) -> None:
    """An empty folder is filled; where the name is a link, what it leads to."""
    real = new.parent / "real"
    real.mkdir()
    new.symlink_to(real)
    assert put_back(archive, new).folder == real
    assert new.is_symlink()
    assert rows(real) == [1, 2, 3]


def test_a_damaged_one_with_force(archive: Path, new: Path) -> None:
    """What is in the folder is put aside only once the new one is whole."""
    fill(new)
    before = contents(new)
    path = new.parent / "cut"
    path.write_bytes(archive.read_bytes()[:-12_000])
    with pytest.raises(ArchiveRefused):
        put_back(path, new, force=True)
    assert {k: v for k, v in contents(new).items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }
    assert sorted(p.name for p in new.parent.iterdir()) == ["cut", "new"]


@pytest.mark.parametrize("mounted", [False, True])
def test_a_failure_between_two_renames(
    archive: Path, new: Path, monkeypatch: pytest.MonkeyPatch, mounted: bool
) -> None:
    """What was moved aside comes back to where it was, at whichever rename the disk fails."""
    rename = Path.rename

    def content() -> dict[str, bytes]:
        return {name: c for name, c in contents(new).items() if not name.endswith(".lock")}

    with small_disk(new, 8) if mounted else nullcontext():
        fill(new)
        before = content()
        for fatal in range(1, 12 if mounted else 3):
            calls = itertools.count(1)

            def failing(source: Path, target: Path) -> Path:
                if next(calls) == fatal:  # noqa: B023 - called within this turn
                    raise OSError(5, "Input/output error")
                return rename(source, target)

            monkeypatch.setattr(Path, "rename", failing)
            with pytest.raises(ConfigurationError, match="Input/output error"):
                put_back(archive, new, force=True)
            assert content() == before
        monkeypatch.undo()
        assert put_back(archive, new, force=True).replaced is not None


def test_a_disk_of_its_own(archive: Path, new: Path) -> None:
    """A folder that is a mount point cannot be renamed: its content is, also with force."""
    with small_disk(new, 8):
        put_back(archive, new)
        assert rows(new) == [1, 2, 3]
        (new / "mine").touch()
        done = put_back(archive, new, force=True)
        assert done.replaced is not None
        assert done.replaced.parent == new
        assert (done.replaced / "mine").exists()
        assert not (new / "mine").exists()
        assert rows(new) == rows(done.replaced) == [1, 2, 3]
        again = take(new, new.parent / "again.tar")
        assert len(again.manifest.files) == len(KEPT) + 1


def test_a_disk_without_room(archive: Path, new: Path) -> None:
    """Seen before anything is written."""
    with small_disk(new.parent / "disk", 1) as disk:
        (disk / "ballast").write_bytes(bytes(900_000))
        with pytest.raises(DiskFull, match="MiB free"):
            put_back(archive, disk / "new")
        assert [p.name for p in disk.iterdir()] == ["ballast"]


def test_a_disk_that_is_filled_meanwhile(archive: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written goes again."""
    monkeypatch.setattr(restoring, "free_bytes", lambda _: 1 << 40)
    with small_disk(new.parent / "disk", 1) as disk:
        (disk / "ballast").write_bytes(bytes(900_000))
        with pytest.raises(DiskFull, match="No space left"):
            put_back(archive, disk / "new")
        assert [p.name for p in disk.iterdir()] == ["ballast"]


def test_a_folder_in_use(archive: Path, new: Path) -> None:
    """Where Headwater runs nothing is replaced, whatever is said; while a restore works nothing starts there."""
    fill(new)
    lock = instance_lock(settings_of(new))
    take_instance(lock)
    with pytest.raises(HeadwaterError, match=f"already runs in {new}"):
        put_back(archive, new, force=True)
    lock.release()
    assert put_back(archive, new, force=True).replaced is not None


def test_a_folder_that_one_process_uses(archive: Path, new: Path) -> None:
    """Beside a cluster of one's own processes run without the instance's lock: none may lose its folder."""
    fill(new)
    status = ProcessStatus(settings_of(new), "views")
    status.set("running")
    with pytest.raises(ConfigurationError, match=rf"views runs in {new} \(pid {os.getpid()}\)"):
        put_back(archive, new, force=True)
    status.close()
    assert put_back(archive, new, force=True).replaced is not None


def test_a_file_that_is_not_there(new: Path) -> None:
    """Is named."""
    with pytest.raises(ConfigurationError, match=r"no file .*absent\.tar"):
        put_back(new.parent / "absent.tar", new)


def test_a_place_that_cannot_be_written_to(archive: Path, new: Path) -> None:
    """A folder below a file is named, with what to do."""
    (new.parent / "file").touch()
    with pytest.raises(ConfigurationError, match="--data"):
        put_back(archive, new.parent / "file" / "data")


def test_nothing_of_the_mode_of_others_comes_along(archive: Path, new: Path) -> None:
    """An archive that says a file were everybody's, or root's own: it is its owner's."""

    def change(members: Members) -> Members:
        for member, _ in members:
            member.mode, member.uid = 0o6777, 12345
        return members

    put_back(changed(archive, new.parent / "modes.tar", change), new)
    found = [p.stat() for p in new.rglob("*") if p.is_file()]
    assert {(s.st_mode & 0o7777, s.st_uid) for s in found} == {(0o600, os.getuid())}
