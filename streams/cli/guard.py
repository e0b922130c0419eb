"""What every command shares: the settings, and errors as one or two lines instead of a traceback."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from schemas.errors import HeadwaterError

if TYPE_CHECKING:
    from streams.settings import Settings


class Guarded(TyperGroup):
    """Shows a HeadwaterError as `error: …` and a hint on stderr, and ends with code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except HeadwaterError as error:
            if os.environ.get("HEADWATER_LOG_LEVEL", "").upper() == "DEBUG":
                raise
            complain(error)
            raise typer.Exit(1) from None


def complain(error: HeadwaterError) -> None:
    """Print an error and what to do about it on stderr."""
    red, end = ("\x1b[1;31m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    typer.echo(f"{red}error:{end} {error.message}", err=True)
    if error.hint:
        typer.echo(f"  {error.hint}", err=True)


def tell_faults() -> None:
    """Print on stderr what installed packages add and cannot be used: the command goes on without it."""
    from streams.extensions import faults  # noqa: PLC0415

    for package, says, do in faults():
        typer.echo(f"warning: package {package}: {says}\n  {do}", err=True)


def load_settings() -> Settings:
    """The settings, with logs going to stderr; raises ConfigurationError naming each one that is wrong."""
    from streams.logs import configure  # noqa: PLC0415
    from streams.settings import load  # noqa: PLC0415

    settings = load()
    configure(settings, "cli", quiet=True)
    return settings
