"""What a reactor writes: its ledger's entries, events of what it does, dead letters."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from schemas import events as e
from schemas import topics
from schemas.codec import Codec, Record
from schemas.envelope import Envelope, derived_id, to_headers
from schemas.errors import DecodeError
from streams.partitions import letters
from streams.partitions.log import Send
from streams.reactors.ledger import Entry
from streams.reactors.reactor import Reactor

_encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Entry).decode


class Records:
    """Makes the records of one reactor and input partition. `now` gives seconds since 1970."""

    def __init__(
        self,
        reactor: Reactor,
        topic: topics.Topic,
        partition: int,
        codec: Codec,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.ledger = topics.ledger(reactor.name)
        self._reactor = reactor
        self._topic = topic
        self._partition = partition
        self._codec = codec
        self._now = now

    def key(self, id_: str) -> bytes:
        """Key of an effect in the ledger, which the reactor's topics share."""
        return f"{self._topic.name}\x00{id_}".encode()

    def entry(self, id_: str, entry: Entry | None) -> Send:
        """What is known of an effect; None: nothing any more."""
        value = None if entry is None else _encode(entry)
        return Send(self.ledger, self.key(id_), value, partition=self._partition)

    def intended(self, entry: Entry, cause: Envelope) -> Send:
        """The call is about to be made."""
        assert entry.effect is not None
        event = e.EffectIntended(**self._named(entry), idempotent=entry.effect.idempotent)
        return self.event(entry, event, cause)

    def deferred(self, entry: Entry, cause: Envelope, error: Exception) -> Send:
        """There will be another call, at the entry's time."""
        event = e.EffectDeferred(**self._named(entry), until=entry.at, **_told(error))
        return self.event(entry, event, cause)

    def completed(
        self,
        entry: Entry,
        cause: Envelope,
        error: Exception | None,
        *,
        detail: str = "",
        latency_ms: float | None = None,
    ) -> Send:
        """Nothing more will be tried."""
        assert entry.outcome is not None
        event = e.EffectCompleted(
            **self._named(entry),
            outcome=entry.outcome,
            detail=letters.text(detail),
            latency_ms=latency_ms,
            **(_told(error) if error is not None else {}),
        )
        return self.event(entry, event, cause)

    def event(self, entry: Entry, event: e.Event, cause: Envelope, ordinal: int = 0) -> Send:
        """An event that the effect led to; of one call and type `ordinal` tells them apart."""
        key = topics.key_of(event)
        envelope = Envelope(
            id=derived_id(entry.id, type(event).__name__, entry.attempt, ordinal),
            source=f"headwater/{self._reactor.name}",
            type=type(event).__name__,
            # A replayed project's clock is that of its data: what is done today must not move it.
            time=self._now() if cause.clock == "live" else cause.time,
            project=cause.project,
            subject=key,
            correlation_id=cause.correlation_id,
            causation_id=cause.id,
            traceparent=cause.traceparent,
            clock=cause.clock,
        )
        value = self._codec.encode(event)
        topic = topics.topic_of(type(event)).name
        return Send(topic, f"{cause.project}/{key}".encode(), value, to_headers(envelope))

    def letter(self, record: Record, cause: Exception, entry: Entry | None = None) -> Send:
        """A dead letter: of an effect, or of a record that could not be read or planned."""
        name = f"{entry.id}/{entry.attempt}" if entry is not None else str(record.offset)
        reactor = self._reactor.name
        letter = letters.of_record(record, None if isinstance(cause, DecodeError) else reactor, cause)
        project = letters.project_of(record)
        return letters.send(letter, f"{reactor}/{name}", project, self._now(), reactor, self._codec)

    def _named(self, entry: Entry) -> dict[str, Any]:
        return {
            "reactor": self._reactor.name,
            "effect_id": entry.id,
            "target": entry.target,
            "attempt": entry.attempt,
        }


def _told(error: Exception) -> dict[str, str]:
    return {"error_type": type(error).__name__, "error_message": letters.said(error)}
