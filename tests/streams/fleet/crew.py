"""A fleet for the tests, and a process that hosts it: `python -m tests.streams.fleet.crew`."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from schemas.errors import BrokerUnavailable, HeadwaterError
from streams.fleet import Fleet, Task
from streams.fleet.host import run
from streams.settings import Settings

fleet = Fleet("crew")
JOURNAL = Path("journal")


def note(task: Task) -> None:
    """What was handled survives the death of this process."""
    path = task.hw.producer.settings.data / JOURNAL
    with path.open("a") as journal:
        journal.write(f"{task.agent_id} {task.id} {task.attempt}\n")


@fleet.agent("echo")
async def echo(task: Task) -> str:
    """Says it back."""
    note(task)
    return f"{task.content}!"


@fleet.agent("slow", timeout_s=60)
async def slow(task: Task) -> None:
    """Takes as long as it is told, in seconds."""
    note(task)
    await asyncio.sleep(float(task.content))


@fleet.agent("broken")
async def broken(task: Task) -> None:
    """Raises what no retry mends."""
    note(task)
    raise ValueError(f"cannot {task.content}")


@fleet.agent("shaky", attempts=3)
async def shaky(task: Task) -> str:
    """Fails twice in passing."""
    note(task)
    if task.attempt < 3:
        raise BrokerUnavailable("not now")
    return "done"


@fleet.agent("refuses")
async def refuses(task: Task) -> None:
    """Raises an error of ours that says that no retry helps."""
    note(task)
    raise HeadwaterError("no")


@fleet.agent("alice")
async def alice(task: Task) -> str | None:
    """Talks to bob for as long as he answers."""
    note(task)
    if task.kind == "message" and int(task.content) >= 4:
        return None
    await task.say(str(1 if task.kind == "task" else int(task.content) + 1), to="bob")
    return None


@fleet.agent("bob")
async def bob(task: Task) -> str:
    """Answers with the next number."""
    note(task)
    return str(int(task.content) + 1)


async def main() -> None:
    """Work until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await run(Settings(), stop, fleet)


if __name__ == "__main__":
    asyncio.run(main())
