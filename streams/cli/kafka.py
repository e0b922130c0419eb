"""`headwater kafka-tools`: Kafka's own commands, for whoever has no Kafka installed."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli.guard import load_settings

UNTOUCHED = {"ignore_unknown_options": True, "allow_interspersed_args": False}
"""What follows the tool's name is the tool's, `--help` included."""


def kafka_tools(
    tool: Annotated[str, typer.Argument(help="Such as topics, consumer-groups or console-consumer.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENTS]...", help="The tool's own; try --help.")
    ] = None,
) -> None:
    """Run one of Kafka's own tools on this instance's cluster, with its address and security.

    The first use fetches them (38 MB). Topics and groups have their names in Kafka, with the namespace.
    """
    from streams.kafka_tools import run  # noqa: PLC0415

    raise typer.Exit(run(load_settings(), tool, arguments or []))
