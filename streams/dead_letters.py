"""Replaying dead letters: the record is appended again, addressed to who could not take it.

A letter of a fold or reactor goes back with the header `ce_replayof`: that one alone takes it, at its
new position, although its id stood there before; a reactor repeats the effects that did not succeed.
A letter that nobody could read goes back as it was, as any producer would send it again: then it is
an event like others, and dropped as a duplicate where the producer has sent it a second time
meanwhile. Nothing remembers a replay: twice is twice.
"""

from __future__ import annotations

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from processors.catalog import usable as folds
from schemas import topics
from schemas.codec import Codec, Record
from schemas.errors import BrokerUnavailable, DecodeError, HeadwaterError
from schemas.events import DeadLetter
from streams.codec import codec_of
from streams.kafka import COMMAND_S, client_options, connect
from streams.partitions.kafka_log import KafkaLog
from streams.producing.producer import Position
from streams.reactors.catalog import usable as reactors
from streams.settings import Settings

_REPLAY_OF = "ce_replayof"


class NoSuchDeadLetter(HeadwaterError):
    """No dead letter was written for this position, or none of this fold."""


class NotReplayable(HeadwaterError):
    """The dead letter is there, but appending it again would change nothing."""


async def replay(
    settings: Settings, topic: str, partition: int, offset: int, fold: str | None = None
) -> list[Position]:
    """Append the record that a dead letter holds to its topic and partition; returns the new positions.

    `topic`, `partition` and `offset` say where the record stood. With `fold` only that fold's letter is
    replayed, without it each fold's, or the one of a record that could not be decoded. Raises
    NoSuchDeadLetter, NotReplayable (before anything is appended) or BrokerUnavailable, and as `codec_of`.
    """
    codec = await codec_of(settings)
    letters = await _letters(settings, codec, topic, partition, offset)
    chosen = [letter for letter in letters.values() if fold is None or letter.fold == fold]
    if not chosen:
        there = ", ".join(str(name or "the record itself, which was not readable") for name in letters)
        raise NoSuchDeadLetter(
            f"{topic}/{partition} offset {offset}: no dead letter" + (f" of fold {fold}" if fold else ""),
            hint=f"there is one of: {there}" if letters else "see GET /v1/dead-letters for their positions",
        )
    await codec.learn([_record(letter) for letter in chosen])
    for letter in chosen:
        _check(letter, codec)
    return await _append(settings, chosen)


async def _letters(
    settings: Settings, codec: Codec, topic: str, partition: int, offset: int
) -> dict[str | None, DeadLetter]:
    """The letters of a position by fold. All partitions are read: the project that keys them is not known."""
    subject = ("ce_subject", topic.encode())
    found: dict[str | None, DeadLetter] = {}
    log = KafkaLog(settings, "dead-letters")
    await log.start(COMMAND_S)
    try:
        for number in range(settings.partitions):
            first, end = await log.bounds(topics.DEAD_LETTERS.name, number)
            async for batch in log.read(topics.DEAD_LETTERS.name, number, first, end):
                await codec.learn(batch)
                for record in batch:
                    if subject not in record.headers:
                        continue
                    letter = codec.decode(record.value)
                    assert isinstance(letter, DeadLetter)
                    if (letter.topic, letter.partition, letter.offset) == (topic, partition, offset):
                        found[letter.fold] = letter
    finally:
        await log.close()
    return found


def _check(letter: DeadLetter, codec: Codec) -> None:
    where = f"{letter.topic}/{letter.partition} offset {letter.offset}"
    if letter.fold is None:
        try:
            codec.decode_record(_record(letter))
        except DecodeError as error:
            raise NotReplayable(
                f"{where} still cannot be decoded: {error.message}",
                hint="once its schema is registered here it can; else send a corrected event",
            ) from error
        return
    if letter.value is None:
        raise NotReplayable(
            f"{where}: fold {letter.fold} raised when it was woken, which no record stands for",
            hint="the fold asks to be woken anew at the key's next event",
        )
    known = [*((f.name, f.topics) for f in folds()), *((r.name, r.topics) for r in reactors())]
    readers = [name for name, topics in known if letter.topic in {t.name for t in topics}]
    if letter.fold not in readers:
        raise NotReplayable(
            f"{where}: no fold or reactor {letter.fold} reads {letter.topic} here",
            hint=f"there is: {', '.join(readers)}",
        )


def _record(letter: DeadLetter) -> Record:
    headers = [(name, value) for name, value in letter.headers.items() if name != _REPLAY_OF]
    if letter.fold is not None:
        headers.append((_REPLAY_OF, letter.fold.encode()))
    return Record(letter.topic, letter.partition, letter.offset, 0.0, letter.key, letter.value, headers)


async def _append(settings: Settings, letters: list[DeadLetter]) -> list[Position]:
    producer = AIOKafkaProducer(
        **client_options(settings),
        acks="all",
        enable_idempotence=True,
        max_request_size=settings.max_record_bytes + 256 * 1024,
    )
    await connect(settings, producer, COMMAND_S)
    try:
        positions = []
        for record in map(_record, letters):
            sent = await producer.send_and_wait(
                settings.named(record.topic),
                record.value,
                record.key,
                partition=record.partition,
                headers=list(record.headers),
            )
            positions.append(Position(record.topic, record.partition, sent.offset))
    except KafkaError as error:
        raise BrokerUnavailable(
            f"replaying dead letters: Kafka did not take the record ({error!r})",
            hint="see `headwater status` and the broker's log",
        ) from error
    finally:
        await producer.stop()
    return positions
