"""A process for the kill tests: `reactors` with the notifier alone, or with one that acknowledges first."""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from streams.reactors import host
from streams.reactors.notifier import Notifier
from streams.reactors.task import ReactorTask
from streams.settings import Settings


class Careless(ReactorTask):
    """The control: it commits its position and only then calls, with no intent written down."""

    async def _turn(self) -> None:
        assert self.ledger is not None
        assert self._transactions is not None
        self._ended.clear()
        self._sends, self._changed = [], {}
        begun = list(self.ledger.due(self._now()))
        if self._position != self._committed:
            await self._transactions.commit([], self._position)
            self._committed = self._position
        self._step("effects.intended")
        for entry in begun:
            self._begin(entry)


async def main(kind: str) -> None:
    """Work until SIGTERM."""
    if kind == "careless":
        setattr(host, "ReactorTask", Careless)  # noqa: B010 - mypy would not let it be assigned
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await host.run(Settings(), stop, [Notifier()])


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
