"""Dispatcher: copies what is addressed to an agent into the inbox that hosted agents read.

Faust, which hosts them, cannot follow a topic that is written by transactions: the copies are
written without. A copy's id is the effect's, so that one written twice is known to be one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from msgspec.structs import replace

from schemas import events as e
from schemas import topics
from schemas.envelope import Envelope
from schemas.errors import BrokerUnavailable
from streams.reactors.reactor import Backoff, Call, Done, Effect, OutcomeUnknown, Reactor

if TYPE_CHECKING:
    from streams.producing.producer import Producer
    from streams.settings import Settings


class Dispatcher(Reactor):
    """One copy for each assignment; an agent's in order."""

    name = "dispatcher"
    topics = (topics.ASSIGNMENTS,)
    accepts = (e.TaskAssigned,)
    begins = "start"
    concurrency = 1
    timeout_s = 60.0
    backoff: ClassVar[Backoff] = Backoff(first_s=0.5, factor=2.0, longest_s=30.0, attempts=1_000)
    _producer: Producer

    async def open(self, settings: Settings) -> None:
        """Connect."""
        from streams.producing.producer import Producer  # noqa: PLC0415 - see Notifier.open

        self._producer = Producer(settings, source=f"headwater/{self.name}", deadline_s=30.0)
        await self._producer.start()

    async def close(self) -> None:
        """Disconnect."""
        await self._producer.stop()

    def effects(self, event: e.Event, envelope: Envelope, at: float) -> Iterable[Effect]:
        """The copy."""
        assert isinstance(event, e.TaskAssigned)
        yield Effect("", event.agent_id, idempotent=True)

    async def perform(self, call: Call) -> Done:
        """Write it; raises OutcomeUnknown where Kafka did not say that it has it."""
        from streams.producing.outgoing import Outgoing, prepare_inbox  # noqa: PLC0415

        envelope = replace(
            call.envelope,
            id=call.id,
            source=f"headwater/{self.name}",
            causation_id=call.envelope.id,
            replay_of=None,
        )
        item = Outgoing(call.event, envelope, call.effect.target)
        try:
            (at,) = await self._producer.send([prepare_inbox(item, await self._producer.codec())])
        except BrokerUnavailable as error:
            raise OutcomeUnknown(error.message) from error
        return Done(f"{at.topic}/{at.partition}@{at.offset}")
