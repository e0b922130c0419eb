"""Events to Kafka records and back: Avro in Confluent framing (magic 0, 4-byte schema id, body)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import fastavro
import msgspec
from pydantic import ValidationError

from schemas.avro_writing import Write, writer
from schemas.catalog import by_subject, subject_of
from schemas.envelope import Envelope, Headers, from_headers, to_headers
from schemas.errors import DecodeError, HeadwaterError, InvalidEvent, RecordTooLarge
from schemas.events import Event
from schemas.locks import registry as every_schema
from schemas.registry import Registered, Registry

MAX_RECORD_BYTES = 1024 * 1024
_PREFIX = struct.Struct(">bI")


class Record(msgspec.Struct, frozen=True):
    """A Kafka record as it was read. `timestamp` is the broker's, seconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: Headers


class Decoded(msgspec.Struct, frozen=True):
    """A record's key, event and envelope."""

    key: str
    event: Event
    envelope: Envelope


class Codec:
    """Encodes with the newest schema version; decodes every registered one (writer → reader)."""

    def __init__(self, registry: Registry | None = None, max_record_bytes: int = MAX_RECORD_BYTES) -> None:
        self.registry = registry or every_schema()
        self.max_record_bytes = max_record_bytes
        self._newest: dict[type[Event], Registered] = {}
        self._writers: dict[type[Event], Write] = {}
        self._readers: dict[int, tuple[type[Event], Any, Any]] = {}
        self._absent: dict[int, str] = {}
        for subject, versions in self.registry.versions.items():
            newest, event_type = versions[-1], by_subject().get(subject)
            if event_type is None:
                self._absent |= {r.id: f"{subject}, which {r.package} no longer declares" for r in versions}
                continue
            self._newest[event_type] = newest
            for r in versions:
                self._readers[r.id] = (event_type, r.parsed, None if r is newest else newest.parsed)

    def adopt(self, registered: Registered) -> None:
        """Read what somebody else writes with this schema of an event type. An id that is known stays."""
        event_type = by_subject()[registered.subject]
        reader = self.registry.versions[registered.subject][-1].parsed
        self._readers.setdefault(registered.id, (event_type, registered.parsed, reader))

    def name_absent(self, schema_id: int, what: str) -> None:
        """Say `what` it is where values with this id are met, which cannot be decoded here."""
        self._absent.setdefault(schema_id, what)

    def knows(self, schema_id: int) -> bool:
        """Whether values with this schema id can be decoded."""
        return schema_id in self._readers

    async def learn(self, records: Sequence[Record]) -> None:
        """Find out what unknown schema ids among the values mean, where there is somebody to be asked."""

    def encode(self, event: Event, *, limited: bool = True) -> bytes:
        """The record value. Raises RecordTooLarge, or InvalidEvent where the type is not registered.

        Only dead letters, which wrap a whole record, are not `limited`.
        """
        write = self._writers.get(type(event)) or self._writer(type(event))
        try:
            value = write(event.__dict__)
        except struct.error as error:
            raise TypeError(f"a number was expected: {error}") from error
        if limited and len(value) > self.max_record_bytes:
            raise RecordTooLarge(
                f"{type(event).__name__} takes {len(value):,} bytes, the limit is {self.max_record_bytes:,}",
                hint="send less, or raise HEADWATER_MAX_RECORD_BYTES",
            )
        return value

    def _writer(self, event_type: type[Event]) -> Write:
        newest = self._newest.get(event_type)
        if newest is None:
            subject_of(event_type)  # raises for one that is declared nowhere
            raise InvalidEvent(
                f"{event_type.__name__} has no schema", hint="lock it: `headwater doctor` says how"
            )
        prefix = _PREFIX.pack(0, newest.id)
        write = writer(newest.definition, event_type.model_fields, prefix)
        return self._writers.setdefault(event_type, write)

    def event_type(self, value: bytes | None) -> type[Event]:
        """The event type by the value's schema id, without decoding the body. Raises DecodeError."""
        return self._reader(value)[0]

    def decode(self, value: bytes | None) -> Event:
        """The event in a record value. Raises DecodeError; what it says names the field."""
        event_type, writer, reader = self._reader(value)
        assert value is not None
        buffer = BytesIO(value)
        buffer.seek(5)
        try:
            fields = fastavro.schemaless_reader(buffer, writer, reader)
            if buffer.tell() != len(value):
                raise DecodeError(
                    f"{event_type.__name__}: {len(value) - buffer.tell()} bytes left after the event",
                    hint="the value was written with another schema than its id says",
                )
            return event_type.model_validate(fields)
        except ValidationError as error:
            raise DecodeError(f"{event_type.__name__}: {explain(error)}", hint="fix the producer") from error
        except HeadwaterError:
            raise
        except Exception as error:  # fastavro raises many kinds on garbage
            raise DecodeError(
                f"{event_type.__name__}: not readable as Avro ({type(error).__name__}: {error})",
                hint="the value was written with another schema than its id says",
            ) from error

    def decode_record(self, record: Record) -> Decoded:
        """A record's key, event and envelope. Raises DecodeError."""
        event = self.decode(record.value)
        return Decoded(decode_key(record.key), event, _envelope_of(record, type(event).__name__))

    def _reader(self, value: bytes | None) -> tuple[type[Event], Any, Any]:
        if value is None or len(value) < 5 or value[0] != 0:
            raise DecodeError(
                "wrong framing: expected a zero byte and a 4-byte schema id before the Avro body",
                hint="serialize with Confluent's Avro framing",
            )
        schema_id = _PREFIX.unpack_from(value)[1]
        try:
            return self._readers[schema_id]
        except KeyError:
            if schema_id in self._absent:
                raise DecodeError(
                    f"schema id {schema_id} is {self._absent[schema_id]}",
                    hint="install the package that has it, then replay the dead letter",
                ) from None
            raise DecodeError(
                f"unknown schema id {schema_id}",
                hint="take ids from this registry (`headwater schemas list`)",
            ) from None


def _envelope_of(record: Record, event_type: str) -> Envelope:
    """The record's envelope; its type is the schema's where the producer gave none."""
    envelope = from_headers(
        record.headers,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
    )
    if envelope.type == event_type:
        return envelope
    if envelope.type:
        raise DecodeError(
            f"header ce_type says {envelope.type}, the schema id says {event_type}", hint="fix the producer"
        )
    return msgspec.structs.replace(envelope, type=event_type)


def decode_key(key: bytes | None) -> str:
    """A record's key as text; none is the empty key. Raises DecodeError."""
    try:
        return key.decode() if key else ""
    except UnicodeDecodeError as error:
        raise DecodeError(f"key is not UTF-8: {error}", hint="keys are UTF-8 strings") from error


def explain(error: ValidationError) -> str:
    """Pydantic's findings as one line: `field: what`."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'event'}: {e['msg']}" for e in error.errors(include_url=False)
    )


__all__ = ["Codec", "Decoded", "Envelope", "Record", "decode_key", "explain", "to_headers"]
