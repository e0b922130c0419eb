"""Disks of a test's own, small enough to be filled: real file systems in memory."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import skip_or_fail


@contextmanager
def small_disk(place: Path, mib: int) -> Iterator[Path]:
    """A folder that is a disk of `mib` MiB. Skips where nothing may be mounted."""
    place.mkdir(parents=True, exist_ok=True)
    run = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "headwater-test", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode:
        skip_or_fail(f"no disk can be mounted here: {run.stderr.strip()}")
    try:
        yield place
    finally:
        # Lazily: a process that has just been killed may have files open still.
        subprocess.run(["umount", "-l", str(place)], check=False)


class Ballast:
    """A file that takes all the room that a disk has, until it is thrown off."""

    def __init__(self, disk: Path) -> None:
        self.path = disk / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Take all room but `leave` bytes."""
        with self.path.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        if leave:
            with self.path.open("rb+") as file:
                file.truncate(max(0, self.path.stat().st_size - leave))

    def drop(self) -> None:
        """Give the room back."""
        self.path.unlink(missing_ok=True)


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Whoever opens a file below a disk's folder in the block is told that it takes no writes.

    A second, read-only view of the disk is laid over the folder. The kernel would refuse to make the disk
    itself read-only while files are open for writing; those stay as they are here.
    """
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def fragile_disk(folder: Path, mib: int = 16) -> Iterator[Path]:
    """An ext4 disk that goes read-only after an error, as most do."""
    image, place = folder / "image", folder / "disk"
    with image.open("wb") as file:
        file.truncate(mib * 2**20)
    place.mkdir()
    for command in (
        ["mkfs.ext4", "-q", str(image)],
        ["mount", "-o", "loop,errors=remount-ro", str(image), str(place)],
    ):
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            skip_or_fail(f"no ext4 can be made and mounted here: {run.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def damage(place: Path) -> None:
    """Have the kernel find an error on an ext4 disk."""
    source = subprocess.run(
        ["findmnt", "-no", "SOURCE", str(place)], capture_output=True, text=True, check=True
    )
    Path(f"/sys/fs/ext4/{Path(source.stdout.strip()).name}/trigger_fs_error").write_text("1")
