"""`headwater backup` and `restore`: the data folder in one file, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.guard import load_settings

if TYPE_CHECKING:
    from streams.backup.contents import Manifest


def backup(
    file: Annotated[Path, typer.Argument(help="New file, such as headwater.tar; .tar.gz is compressed.")],
) -> None:
    """Write the log, views, keys and secrets into one file, while everything runs or while nothing does.

    Everything that was acknowledged before is in it. It holds keys: keep it as you keep a password.
    """
    from streams.backup.taking import backup as take  # noqa: PLC0415

    with _bar(f"backup {file.name}") as advance:
        done = take(load_settings(), file, advance)
    manifest = done.manifest
    typer.echo(
        f"{file}: {manifest.about.files:,} files, {_mib(done.file_bytes)} in {done.seconds:.1f} s{_log(manifest)}"
    )
    _say_absent(manifest)


def restore(
    file: Annotated[Path, typer.Argument(help="What `headwater backup` has written.")],
    *,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder to make; that of HEADWATER_DATA by default.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Put aside what is in the folder, and name where.")
    ] = False,
) -> None:
    """Make a data folder from a backup, after all of it was checked.

    Restore what you trust alone: who could change a backup can have his code run by what is restored.
    """
    from streams.backup.restoring import restore as put_back  # noqa: PLC0415

    settings = load_settings()
    if data is not None:
        settings = settings.model_copy(update={"data": data.expanduser().absolute()})
    with _bar(f"restore {file.name}") as advance:
        done = put_back(settings, file, advance, force=force)
    about = done.manifest.about
    typer.echo(
        f"{done.folder}: {about.files:,} files, {_mib(about.bytes)} in {done.seconds:.1f} s, as of {about.taken} "
        f"(Headwater {about.headwater}){_log(done.manifest)}"
    )
    if done.replaced is not None:
        typer.echo(f"what was there before is in {done.replaced}: remove it when you need it no more")
    if about.namespace not in (None, settings.namespace):
        typer.echo(
            f"its topics are those of namespace {about.namespace}, yours is {settings.namespace}: "
            f"set HEADWATER_NAMESPACE={about.namespace} to go on with them"
        )
    _say_absent(done.manifest)


def _log(manifest: Manifest) -> str:
    log = manifest.log
    if log is None:
        return ""
    counts = [end for topic, ends in log.ends.items() if not topic.startswith("__") for end in ends]
    still = (
        "the broker did not run"
        if log.still_ms is None
        else f"the broker stood still for {log.still_ms:.0f} ms"
    )
    return f"; {len(counts)} partitions up to {sum(counts):,} offsets; {still}"


def _say_absent(manifest: Manifest) -> None:
    for sentence in manifest.absent:
        typer.echo(f"not in it: {sentence}")


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
