"""What `at_least` and streams ask Kafka: how far the folds' group is, and where topics begin and end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from projections.position import BadToken
from projections.view import Place
from schemas import catalog, topics
from schemas.errors import BrokerUnavailable
from streams.kafka import client_options, close, connect
from streams.partitions.log import FOLDS
from streams.settings import Settings
from streams.views.source import partition_counts

CONNECT_S = 10.0
ANSWER_S = 10.0
PROBE_S = 0.5
_POLL_MS = 50

T = TypeVar("T")
Question = Callable[[AIOKafkaConsumer, list[TopicPartition]], Awaitable[dict[TopicPartition, int]]]
log = structlog.get_logger()


class KafkaOffsets:
    """Connects when first asked, and anew after a failure. `close` it with the process.

    `known` are topics beside the declared ones that a position may name.
    """

    def __init__(self, settings: Settings, known: Iterable[topics.Topic] = ()) -> None:
        self._settings = settings
        self._known = {**catalog.topics(), **{topic.name: topic for topic in known}}
        self._counts: dict[str, int] = {}
        self._group: AIOKafkaConsumer | None = None
        self._probe: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()

    async def ends(self, names: Iterable[str]) -> dict[Place, int]:
        """The ends of topics, open transactions included. Raises BadToken where there is no such topic."""
        return await self._of_topics(names, lambda client, tps: client.end_offsets(tps))

    async def starts(self, names: Iterable[str]) -> dict[Place, int]:
        """The first offsets that the log still has. Raises BadToken where there is no such topic."""
        return await self._of_topics(names, lambda client, tps: client.beginning_offsets(tps))

    async def since(self, names: Iterable[str], ms: int) -> dict[Place, int]:
        """The first offsets that the broker stamped at a time (since 1970) or later, else the ends. Raises BadToken.

        Of records in open transactions, too. What comes later than the question is stamped later than it.
        """

        async def ask(client: AIOKafkaConsumer, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
            ends: dict[TopicPartition, int] = await client.end_offsets(tps)
            found = await client.offsets_for_times(dict.fromkeys(tps, max(0, ms)))
            return {tp: ends[tp] if found[tp] is None else found[tp].offset for tp in tps}

        return await self._of_topics(names, ask)

    async def pending(self, wanted: Mapping[Place, int]) -> dict[Place, int]:
        """The places, with the offset wanted, below which the group has not handled everything.

        The group commits the offset after the last record that it handled; markers of transactions
        may follow that nobody handles. So what is short of the wanted offset is looked into.
        """

        async def ask() -> dict[Place, int]:
            client = await self._client()
            committed = await asyncio.gather(*(client.committed(self._tp(place)) for place in wanted))
            short = {
                place: (done, offset)
                for (place, offset), done in zip(wanted.items(), committed, strict=True)
                if done is None or done < offset
            }
            if not short:
                return {}
            found = await self._holding_records(short)
            return {place: wanted[place] for place in found}

        return await self._answered(ask)

    async def close(self) -> None:
        """Disconnect."""
        for consumer in (self._group, self._probe):
            if consumer is not None:
                await close(consumer)
        self._group = self._probe = None

    async def _of_topics(self, names: Iterable[str], question: Question) -> dict[Place, int]:
        wanted = sorted(set(names))
        unknown = [name for name in wanted if name not in self._known]
        if unknown:
            raise BadToken(f"there is no topic {', '.join(unknown)}", hint="send a token of ours")

        async def ask() -> dict[Place, int]:
            missing = [self._known[name] for name in wanted if name not in self._counts]
            if missing:
                self._counts |= await partition_counts(self._settings, missing)
            places = [(name, p) for name in wanted for p in range(self._counts[name])]
            answer = await question(await self._client(), [self._tp(place) for place in places])
            return {place: answer[self._tp(place)] for place in places}

        return await self._answered(ask) if wanted else {}

    async def _holding_records(self, ranges: Mapping[Place, tuple[int | None, int]]) -> set[Place]:
        """The places with a committed record in their range; those that did not tell in time, too."""
        if self._probe is None:
            self._probe = await self._connected(group_id=None, isolation_level="read_committed")
        probe = self._probe
        tps = {self._tp(place): place for place in ranges}
        starts = await probe.beginning_offsets([tp for tp, place in tps.items() if ranges[place][0] is None])
        probe.assign(list(tps))
        for tp, place in tps.items():
            start = ranges[place][0]
            probe.seek(tp, starts[tp] if start is None else start)
        found: set[Place] = set()
        end = time.monotonic() + PROBE_S
        while tps and time.monotonic() < end:
            polled = await probe.getmany(timeout_ms=_POLL_MS)
            for tp, place in list(tps.items()):
                until = ranges[place][1]
                if tp in polled and polled[tp][0].offset < until:
                    found.add(place)
                if place in found or tp in polled or await probe.position(tp) >= until:
                    del tps[tp]
        probe.assign([])
        return found | set(tps.values())

    async def _client(self) -> AIOKafkaConsumer:
        if self._group is None:
            self._group = await self._connected(
                group_id=self._settings.named(FOLDS), isolation_level="read_uncommitted"
            )
        return self._group

    async def _connected(self, **options: str | None) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **client_options(self._settings), enable_auto_commit=False, auto_offset_reset="none", **options
        )
        await connect(self._settings, consumer, CONNECT_S)
        return consumer

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """One question at a time; a client that failed is thrown away. Raises BrokerUnavailable."""
        async with self._lock:
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await ask()
            except (KafkaError, OSError, TimeoutError) as error:
                await self.close()
                raise BrokerUnavailable(
                    f"Kafka did not tell offsets: {error!r}", hint="see `headwater status`"
                ) from error

    def _tp(self, place: Place) -> TopicPartition:
        return TopicPartition(self._settings.named(place[0]), place[1])
