"""Records that no fold could take: where they stand, what was wrong, and the record itself."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from sqlalchemy import Column, Connection, Index, MetaData, Table

from projections.columns import INTEGER, TEXT
from projections.merging import keep_first
from projections.recorded import base64_text, recorded, recorded_columns
from projections.view import Entry, Tables, View
from schemas.events import DeadLetter
from schemas.topics import DEAD_LETTERS


class DeadLetters(View):
    """One row a DeadLetter. `of_*` is the position of the record that failed; bytes are base64."""

    name = "dead_letters"
    about = "records that no fold could take"
    topics = (DEAD_LETTERS,)

    def tables(self, metadata: MetaData, suffix: str) -> Tables:
        """Dead letters by event id; indexed by time and by the failed record's position."""
        table = Table(
            f"dead_letters{suffix}",
            metadata,
            *recorded_columns(),
            Column("of_topic", TEXT, nullable=False),
            Column("of_partition", INTEGER, nullable=False),
            Column("of_offset", INTEGER, nullable=False),
            Column("fold", TEXT),
            Column("error_type", TEXT, nullable=False),
            Column("error_message", TEXT, nullable=False),
            Column("key", TEXT),
            Column("value", TEXT),
            Column("headers", TEXT, nullable=False),
        )
        c = table.c
        Index(None, c.project, c.time)
        Index(None, c.project, c.of_topic, c.of_partition, c.of_offset)
        return {"dead_letters": table}

    def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
        """Insert dead letters that are not there yet."""
        rows = []
        for entry in batch:
            letter = entry.event
            if isinstance(letter, DeadLetter):
                headers = {name: base64_text(value) for name, value in letter.headers.items()}
                rows.append(
                    recorded(entry)
                    | {
                        "of_topic": letter.topic,
                        "of_partition": letter.partition,
                        "of_offset": letter.offset,
                        "fold": letter.fold,
                        "error_type": letter.error_type,
                        "error_message": letter.error_message,
                        "key": None if letter.key is None else base64_text(letter.key),
                        "value": None if letter.value is None else base64_text(letter.value),
                        "headers": orjson.dumps(headers).decode(),
                    }
                )
        keep_first(connection, tables["dead_letters"], rows)
