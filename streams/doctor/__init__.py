"""What is missing or wrong with this machine and this instance, and what to do about each.

Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Callable

import psutil

from streams.doctor import instance, machine
from streams.doctor.finding import Finding, Level
from streams.settings import Settings

__all__ = ["Finding", "Level", "examine", "examine_machine"]

_CHECKS: tuple[Callable[[Settings], list[Finding]], ...] = (
    machine.python,
    machine.variables,
    machine.disk,
    machine.memory,
    instance.lock,
    instance.doors,
    machine.java,
    instance.api_key,
    instance.database,
    instance.processes,
)


def examine_machine(settings: Settings) -> list[Finding]:
    """Everything that can be seen without Kafka."""
    found: list[Finding] = []
    for check in _CHECKS:
        try:
            found += check(settings)
        except (OSError, psutil.Error) as error:
            found.append(Finding(check.__name__, "warn", f"cannot be looked at: {error}", "look by hand"))
    return found


async def examine(settings: Settings) -> list[Finding]:
    """The whole report, the machine's part first."""
    from streams.doctor.extensions import extensions  # noqa: PLC0415 - brings the models along
    from streams.doctor.kafka import kafka  # noqa: PLC0415
    from streams.doctor.schemas import schema_ids, schemas  # noqa: PLC0415

    found = [*examine_machine(settings), *schemas(), *extensions(), *await kafka(settings)]
    if any(f.check == "kafka" and f.level == "fail" for f in found):
        return found  # what the log remembers of schema ids is in Kafka, too
    return [*found, *await schema_ids(settings)]
