"""Kafka's folders of a log: what of them has to be kept, and up to where a log goes."""

from __future__ import annotations

import os
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence

from streams.backup.moment import Held

_SEGMENT = re.compile(r"(\d{20})\.log")
_PARTITION = re.compile(r"(?P<topic>.+)-(?P<partition>\d+)")
_BATCH = struct.Struct(">qi11xi")
"""Base offset, bytes that follow, and (after epoch, magic, checksum and attributes) the last record's number."""
_LENGTH_FROM = 12


def without_scrap(files: Sequence[Held]) -> list[Held]:
    """All but what Kafka deletes or makes anew when it starts.

    The index of the segment that is written to is one that it has mapped into memory: 10 MB, mostly nothing.
    """
    last: dict[str, str] = {}
    for held in files:
        folder, _, name = held.name.rpartition("/")
        if found := _SEGMENT.fullmatch(name):
            last[folder] = max(last.get(folder, ""), found[1])
    return [held for held in files if not _is_scrap(held.name, last)]


def _is_scrap(path: str, last: dict[str, str]) -> bool:
    folder, _, name = path.rpartition("/")
    base, _, kind = name.partition(".")
    return name.endswith(".deleted") or (kind in ("index", "timeindex") and last.get(folder) == base)


def ends(files: Iterable[Held]) -> dict[str, list[int]]:
    """By topic: of each partition, the offset that its next record would have had.

    `files` are those of Kafka's log folder, named from there.
    """
    last: dict[tuple[str, int], Held] = {}
    for held in files:
        folder, _, name = held.name.rpartition("/")
        place = _PARTITION.fullmatch(folder)
        if place is None or not _SEGMENT.fullmatch(name):
            continue
        key = (place["topic"], int(place["partition"]))
        if key not in last or last[key].name < held.name:
            last[key] = held
    topics: dict[str, list[int]] = defaultdict(list)
    for topic, partition in sorted(last):
        topics[topic].append(_end(last[topic, partition]))
    return dict(topics)


def _end(segment: Held) -> int:
    """The end of a log whose last segment this is; a batch that was being written does not count."""
    end, at = int(segment.name.rpartition("/")[2][:20]), 0
    while len(head := os.pread(segment.descriptor, _BATCH.size, at)) == _BATCH.size:
        base, length, number = _BATCH.unpack(head)
        at += _LENGTH_FROM + length
        if length <= 0 or at > segment.size:
            break
        end = base + number + 1
    return end
