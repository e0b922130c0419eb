"""Records as entries."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from schemas import events as e
from schemas.codec import Codec, Record
from schemas.envelope import PRODUCER_KEY, Envelope, to_headers
from streams.views.source import Decoder

CODEC = Codec()
NOW = 1_700_000_000.0


def record(offset: int = 0, value: bytes | None = None, key: bytes = b"p/a", **about: Any) -> Record:
    """A message's record, as a producer writes it."""
    event = e.MessagePosted(agent_id="a", role="user", content="x")
    fields: dict[str, Any] = {
        "id": f"i{offset}",
        "source": "s",
        "type": "MessagePosted",
        "time": NOW,
        "project": "p",
    } | about
    encoded = CODEC.encode(event) if value is None else value
    return Record("agent.messages", 0, offset, NOW, key, encoded, to_headers(Envelope(**fields)))


class Counting(Codec):
    """Counts what it decodes."""

    decoded = 0

    def decode_record(self, record: Record) -> Any:
        self.decoded += 1
        return super().decode_record(record)


def test_a_record_is_decoded_once_for_all_views() -> None:
    """The second view that gets a record gets the same entry, without decoding; memory stays bounded."""
    codec = Counting()
    decoder = Decoder(codec, keep_bytes=100_000)
    records = [record(offset) for offset in range(50)]
    first, _ = decoder.entries(records)
    second, _ = decoder.entries(records)
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert codec.decoded == 50
    decoder.entries([record(offset) for offset in range(50, 1000)])
    assert decoder._bytes <= 100_000
    assert len(decoder._kept) == len(decoder._sizes) < 200


def test_an_entry_says_which_key_wrote_it() -> None:
    """The API key's id comes from its header; of a record that came in another way there is none."""
    plain = record(0)
    written = replace(record(1), headers=[*plain.headers, (PRODUCER_KEY, b"0123456789ab")])
    entries, _ = Decoder(CODEC).entries([plain, written])
    assert [entry.producer_key for entry in entries] == [None, "0123456789ab"]


def test_what_is_no_event_is_given_out_beside() -> None:
    """A record that cannot be decoded is named with its error; those around it are entries."""
    entries, bad = Decoder(CODEC).entries([record(0), record(1, value=b"garbage"), record(2)])
    assert [entry.offset for entry in entries] == [0, 2]
    assert [(u.record.offset, "framing" in str(u.error)) for u in bad] == [(1, True)]


@pytest.mark.parametrize(
    ("clock", "ahead", "shown"),
    [("live", 10, 10), ("live", 301, 300), ("replay", 1e6, 1e6), ("live", -1e6, -1e6)],
)
def test_a_live_event_is_not_far_ahead(clock: str, ahead: float, shown: float) -> None:
    """Event time is that of the runner: a live project's is at most 5 minutes ahead of the broker's."""
    ((entry,), _) = Decoder(CODEC).entries([record(time=NOW + ahead, clock=clock)])
    assert entry.time == NOW + shown


@pytest.mark.parametrize(
    ("key", "shown"), [(b"p/a", "a"), (b"p/a/b", "a/b"), (b"other/a", "other/a"), (b"", ""), (b"p", "p")]
)
def test_a_key_is_shown_without_its_project(key: bytes, shown: str) -> None:
    """The project that the runner and the SDK put before a key is taken off; a foreign key is left alone."""
    ((entry,), _) = Decoder(CODEC).entries([record(key=key)])
    assert entry.key == shown
