"""`headwater new`: a package of your own, to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

new = typer.Typer(no_args_is_help=True, help="A package of your own, to begin with: a fold.")


@new.callback()
def _new() -> None:
    """A package of your own, to begin with: a fold."""


@new.command("fold")
def new_fold(
    name: Annotated[str, typer.Argument(help="Its name, such as tool-errors; a folder here gets it, too.")],
) -> None:
    """Make a package with a fold, an event type, a test and entry points, in a folder of its name."""
    from streams.new.making import make  # noqa: PLC0415

    made = make("fold", name, Path.cwd())
    for path in sorted(p for p in made.rglob("*") if p.is_file()):
        typer.echo(f"  {path.relative_to(made.parent)}")
    typer.echo(f"next: pip install -e '{name}[test]' && cd {name} && pytest")
