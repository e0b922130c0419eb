"""Dead letters: a record that could not be decoded, or on which a fold raised, kept whole with its cause."""

from __future__ import annotations

from schemas import topics
from schemas.codec import Codec, Record
from schemas.envelope import DEFAULT_PROJECT, Envelope, derived_id, to_headers
from schemas.events import DeadLetter
from streams.partitions.log import Send

_MESSAGE_CHARS = 4096


def of_record(record: Record, fold: str | None, cause: Exception) -> DeadLetter:
    """The letter of a record; `fold` is the one that raised, None where the record was not readable."""
    return DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        fold=fold,
        error_type=type(cause).__name__,
        error_message=said(cause),
        key=record.key,
        value=record.value,
        headers={name: value or b"" for name, value in record.headers},
    )


def of_wake(topic: str, partition: int, position: int, fold: str, key: str, cause: Exception) -> DeadLetter:
    """The letter of a wake on which a fold raised: `topic` is that of the ticks, there is no value."""
    return DeadLetter(
        topic=topic,
        partition=partition,
        offset=position,
        fold=fold,
        error_type=type(cause).__name__,
        error_message=said(cause),
        key=key.encode(),
    )


def send(letter: DeadLetter, name: str, project: str, at: float, group: str, codec: Codec) -> Send:
    """The record of a letter; `name` tells it from others of its partition, for an id that never changes."""
    envelope = Envelope(
        id=derived_id(letter.topic, letter.partition, name),
        source=f"headwater/{group}",
        type="DeadLetter",
        time=at,
        project=project,
        subject=letter.topic,
    )
    value = codec.encode(letter, limited=False)
    return Send(topics.DEAD_LETTERS.name, f"{project}/{letter.topic}".encode(), value, to_headers(envelope))


def project_of(record: Record) -> str:
    """The project of a record that may not be readable."""
    raw = dict(record.headers).get("ce_project")
    try:
        return (raw or b"").decode() or DEFAULT_PROJECT
    except UnicodeDecodeError:
        return DEFAULT_PROJECT


def said(cause: Exception) -> str:
    """What the error says, as text that can be written."""
    try:
        return text(str(cause))
    except Exception as error:  # noqa: BLE001 - the fold's own class
        return f"its message could not be read: {type(error).__name__}"


def text(value: str) -> str:
    """The beginning of it, as text that can be written: somebody's may have half a surrogate pair."""
    return value[:_MESSAGE_CHARS].encode(errors="replace").decode()
