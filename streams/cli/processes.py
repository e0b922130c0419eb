"""`headwater up`, and each process alone in the foreground."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.guard import load_settings

if TYPE_CHECKING:
    import asyncio

    from streams.settings import Settings
    from streams.supervision.process import Run

Agents = Annotated[int, typer.Option("--agents", min=1, max=10_000, help="Agents in the simulated fleet.")]


def up(
    *,
    simulate: Annotated[
        bool, typer.Option("--simulate/--no-simulate", help="Run the seeded simulated fleet as well.")
    ] = True,
    agents: Agents = 12,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Log lines instead of the live display (default without a terminal)."),
    ] = False,
) -> None:
    """Start everything and show how it is doing; Ctrl-C stops it."""
    import asyncio  # noqa: PLC0415

    from streams.supervision.up import up as run_up  # noqa: PLC0415

    settings = load_settings()
    asyncio.run(run_up(settings, simulate=simulate, agents=agents, plain=plain or not sys.stdout.isatty()))
    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        # A download of jars that was under way cannot be cancelled, and would be waited for.
        os._exit(0)


def broker() -> None:
    """Run the embedded Kafka broker alone."""

    def load() -> Run:
        from streams.supervision.broker_process import run  # noqa: PLC0415

        return run

    _host("broker", load)


def folds() -> None:
    """Run the folds: every processor, exactly once."""

    def load() -> Run:
        from streams.runner import run  # noqa: PLC0415

        return run

    _host("folds", load)


def reactors() -> None:
    """Run the reactors: webhooks, and whatever else acts on the outside world."""

    def load() -> Run:
        from streams.reactors.host import run  # noqa: PLC0415

        return run

    _host("reactors", load)


def fleet(
    module: Annotated[
        str, typer.Argument(metavar="MODULE[:NAME]", help="Python module with a Fleet, and its name there.")
    ],
) -> None:
    """Run the agents that a module declares; more hosts of one fleet share the work."""

    def load() -> Run:
        from streams.fleet.host import load, run  # noqa: PLC0415

        agents = load(module)
        return lambda settings, stop: run(settings, stop, agents)

    _host("fleet", load)


def views() -> None:
    """Run the views: read models in SQL."""

    def load() -> Run:
        from streams.views.follower import run  # noqa: PLC0415

        return run

    _host("views", load)


def serve() -> None:
    """Run the HTTP API."""

    def load() -> Run:
        from streams.gateway.serve import run  # noqa: PLC0415

        return run

    _host("serve", load)


def simulate(
    *,
    agents: Agents = 12,
    seed: Annotated[int, typer.Option(help="The same seed gives the same fleet.")] = 7,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Events a second, roughly; the fleet's own by default.")
    ] = None,
) -> None:
    """Run a simulated fleet of agents with faults that it logs as ground truth."""

    def load() -> Run:
        from streams.simulate import run  # noqa: PLC0415

        async def run_fleet(settings: Settings, stop: asyncio.Event) -> None:
            if rate is None:
                await run(settings, stop, agents=agents, seed=seed)
            else:
                await run(settings, stop, agents=agents, seed=seed, rate=rate)

        return run_fleet

    _host("simulate", load)


def _host(name: str, load: object) -> None:
    from streams.supervision.process import host  # noqa: PLC0415

    host(load_settings(), name, load)  # type: ignore[arg-type]  # the type is imported for checking only
