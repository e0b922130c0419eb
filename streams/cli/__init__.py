"""The command `headwater`. Each command imports what it needs when it runs: `--help` stays quick."""

from __future__ import annotations

import typer

from streams.cli import (
    declared,
    diagnosis,
    events,
    folds,
    kafka,
    keys,
    new,
    processes,
    quotas,
    safekeeping,
    upkeep,
)
from streams.cli.guard import Guarded

app = typer.Typer(
    name="headwater",
    cls=Guarded,
    help="Event-sourced stream processing for fleets of AI agents.",
    no_args_is_help=True,
    add_completion=False,
    # Errors raised on purpose are shown by Guarded; a fault of ours shows Python's own traceback.
    pretty_exceptions_enable=False,
)

fleet = typer.Typer(no_args_is_help=True, help="Agents written in Python: run them.")
fleet.command("run")(processes.fleet)


@fleet.callback()
def _fleet() -> None:
    """Agents written in Python: run them."""


app.command()(processes.up)
app.command()(processes.broker)
app.add_typer(folds.folds, name="folds")
app.command()(processes.reactors)
app.add_typer(fleet, name="fleet")
app.add_typer(upkeep.views, name="views")
app.command()(processes.serve)
app.command()(processes.simulate)
app.command()(diagnosis.status)
app.command()(diagnosis.doctor)
app.command()(safekeeping.backup)
app.command()(safekeeping.restore)
app.command()(events.produce)
app.command()(events.tail)
app.command()(events.replay)
app.command("kafka-tools", context_settings=kafka.UNTOUCHED)(kafka.kafka_tools)
app.add_typer(declared.topics, name="topics")
app.add_typer(declared.schemas, name="schemas")
app.command()(declared.topology)
app.add_typer(new.new, name="new")
app.add_typer(keys.keys, name="keys")
app.add_typer(quotas.quotas, name="quotas")
app.add_typer(upkeep.dead_letters, name="dead-letters")


def main() -> None:
    """Run the command line; exit code 0 when it did what was asked, 1 when not, 2 when not understood."""
    app(prog_name="headwater")


__all__ = ["app", "main"]
