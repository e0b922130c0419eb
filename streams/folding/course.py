"""What the folds of a partition were given, in order: its records, and between them what has no record there."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import NamedTuple

from schemas import events as e
from schemas.codec import Codec, Record
from streams.folding.lineage import Segment
from streams.folding.snapshots import Skip
from streams.partitions.log import Log


class Turn(NamedTuple):
    """Something that came before the record at `offset`: a tick, or a version that took over a fold's state."""

    offset: int
    at: float
    what: e.Tick | Segment


def turns(ticks: Iterable[e.Tick], segments: Iterable[Segment]) -> deque[Turn]:
    """Both in the order in which they came; what a tick of the same time led to was the older version's."""
    of_ticks = [Turn(tick.after_offset, tick.at, tick) for tick in ticks]
    of_segments = [Turn(segment.start, segment.clock, segment) for segment in segments]
    return deque(sorted([*of_ticks, *of_segments], key=lambda turn: turn[:2]))


async def course(
    source: Log,
    codec: Codec,
    topic: str,
    partition: int,
    between: deque[Turn],
    skips: Collection[Skip],
    start: int,
    position: int,
    chunk: int = 2_000,
) -> AsyncGenerator[Sequence[Record] | Turn, None]:
    """Records from `start` to `position`, at most `chunk` at a time, and each turn where it came."""
    async with aclosing(source.read(topic, partition, start, position)) as batches:
        async for batch in batches:
            # What was undecodable stays so: nobody needs to be asked, who may be away.
            await codec.learn([r for r in batch if Skip("", r.offset) not in skips] if skips else batch)
            records: Sequence[Record] = batch
            while records:
                while between and between[0].offset <= records[0].offset:
                    yield between.popleft()
                until = between[0].offset if between else position
                count = bisect_left(records, until, hi=min(chunk, len(records)), key=lambda r: r.offset)
                yield records[:count]
                records = records[count:]
    while between:
        yield between.popleft()
