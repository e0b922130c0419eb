"""Kafka's second transaction protocol: who speaks it, and what its answers lead to.

That it keeps what is promised is shown by the contract suite, the kill tests and the cluster's tests. The
faults here cannot be had from a real broker at will.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError, ProducerFenced

from streams.admin import declared, ensure_topics
from streams.kafka import client_options, connect
from streams.partitions.kafka_log import KafkaLog
from streams.partitions.log import Send
from streams.partitions.transactions_v1 import TransactionsV1
from streams.partitions.transactions_v2 import TransactionsV2, spoken
from streams.settings import Settings
from tests.streams.cluster import Cluster

OUT, INPUT = TopicPartition("out", 0), TopicPartition("in", 3)
PRODUCE, INIT, END, COMMIT = 0, 22, 26, 28
MOVED, TOO_LARGE, NOT_COORDINATOR, DUPLICATE, OLD_EPOCH, BUSY, FENCED = 6, 10, 16, 46, 47, 51, 90
ABORTABLE = 120


class Broker:
    """Answers an AIOKafkaClient's requests by a script: by API key, codes or errors for the next ones; else 0."""

    def __init__(self, script: dict[int, list[int | Exception]]) -> None:
        self.script = script
        self.asked: list[Any] = []
        self.lookups = self.refreshed = 0
        self.cluster = SimpleNamespace(leader_for_partition=lambda _: 1)

    async def send(self, node: int, request: Any) -> Any:
        """See AIOKafkaClient."""
        it = request.prepare({request.API_KEY: (0, 99)})
        type(it).decode(it.encode())  # it can be written, and read
        self.asked.append(it)
        code = next(iter(self.script.get(it.API_KEY, [])), 0)
        del self.script.get(it.API_KEY, [])[:1]
        if isinstance(code, Exception):
            raise code
        if it.API_KEY == PRODUCE:
            topics: list[Any] = [
                (t, [(p, code, 0, 0, 0, [], None, {}) for p, *_ in parts], {}) for t, parts, _ in it.topics
            ]
            return SimpleNamespace(topics=topics)
        if it.API_KEY == COMMIT:
            return SimpleNamespace(
                topics=[(t, [(p, code, {}) for p, *_ in parts], {}) for t, parts, _ in it.topics]
            )
        epoch = 1 if it.API_KEY == INIT else it.producer_epoch + 1
        return SimpleNamespace(error_code=code, producer_id=7, producer_epoch=epoch)

    async def coordinator_lookup(self, kind: CoordinationType, key: str) -> int:
        """See AIOKafkaClient."""
        self.lookups += 1
        return 1

    async def force_metadata_update(self) -> bool:
        """See AIOKafkaClient."""
        self.refreshed += 1
        return True

    async def _wait_on_metadata(self, topic: str) -> set[int]:
        return {0, 1, 2}

    def sent(self, key: int) -> list[Any]:
        """Requests of a kind."""
        return [it for it in self.asked if key == it.API_KEY]


def records(*values: bytes, partition: int = 0) -> list[Send]:
    """Records of the topic `out`."""
    return [Send("out", b"k", value, (), partition) for value in values]


async def committed(
    script: dict[int, list[int | Exception]],
    sends: list[Send] | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> Broker:
    """What a broker was asked by one who took over and committed."""
    broker = Broker(script)
    one = TransactionsV2(broker, "me", lambda name: name, step)
    await one.take_over()
    await one.commit(records(b"a") if sends is None else sends, "group", INPUT, 5)
    return broker


async def test_three_requests_are_a_transaction() -> None:
    """Records, position, end: each in the epoch that the coordinator gave, and no more than these."""
    broker = await committed({})
    assert [it.API_KEY for it in broker.asked] == [INIT, PRODUCE, COMMIT, END]
    assert {it.producer_epoch for it in broker.sent(COMMIT) + broker.sent(END)} == {1}
    assert broker.sent(COMMIT)[0].topics == [("in", [(3, 5, -1, "", {})], {})]


async def test_the_next_transaction_has_the_next_epoch() -> None:
    """Its records are counted from 0 again: they belong to no earlier one."""
    broker = Broker({})
    one = TransactionsV2(broker, "me", lambda name: name, lambda _: None)
    await one.take_over()
    for offset in (1, 2):
        await one.commit(records(b"a", b"b"), "group", INPUT, offset)
    assert [it.producer_epoch for it in broker.sent(END)] == [1, 2]
    batches = [it.topics[0][1][0][1] for it in broker.sent(PRODUCE)]
    assert [(int.from_bytes(b[51:53]), int.from_bytes(b[53:57])) for b in batches] == [(1, 0), (2, 0)]


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        (PRODUCE, BUSY), (PRODUCE, MOVED), (PRODUCE, KafkaConnectionError()), (COMMIT, BUSY), (COMMIT, NOT_COORDINATOR),
        (COMMIT, KafkaConnectionError()), (END, BUSY), (END, NOT_COORDINATOR), (END, KafkaConnectionError()),
    ],
)  # fmt: skip
async def test_what_passes_is_tried_again(key: int, fault: int | Exception) -> None:
    """The same request again, bit by bit, so that a broker that had done it knows it; nothing else twice."""
    broker = await committed({key: [fault, fault]})
    assert len(broker.sent(key)) == 3
    assert len({it.encode() for it in broker.sent(key)}) == 1
    assert all(len(broker.sent(other)) == 1 for other in {INIT, PRODUCE, COMMIT, END} - {key})


async def test_a_moved_leader_and_a_lost_coordinator_are_looked_for() -> None:
    """Metadata is asked anew where the leader is another, coordinators where one is."""
    assert (await committed({PRODUCE: [MOVED]})).refreshed == 1
    assert (await committed({})).lookups == 2
    assert (await committed({END: [NOT_COORDINATOR]})).lookups == 3


async def test_what_is_there_already_is_not_written_again() -> None:
    """An attempt whose answer was lost had succeeded."""
    broker = await committed({PRODUCE: [KafkaConnectionError(), DUPLICATE]})
    assert len(broker.sent(PRODUCE)) == 2
    assert len(broker.sent(END)) == 1


@pytest.mark.parametrize("key", [PRODUCE, COMMIT, END])
@pytest.mark.parametrize("code", [OLD_EPOCH, FENCED])
async def test_who_was_replaced_is_told(key: int, code: int) -> None:
    """Whichever request says it."""
    with pytest.raises(ProducerFenced):
        await committed({key: [code]})


@pytest.mark.parametrize(
    ("script", "error"),
    [({PRODUCE: [TOO_LARGE]}, MessageSizeTooLargeError), ({COMMIT: [ABORTABLE]}, KafkaError)],
)
async def test_what_does_not_pass_ends_it(
    script: dict[int, list[int | Exception]], error: type[Exception]
) -> None:
    """A record or a position that is refused for good: the transaction is not committed."""
    steps: list[str] = []
    with pytest.raises(error):
        await committed(script, step=steps.append)
    assert "commit.offsets" not in steps


async def test_a_request_has_one_batch_of_each_partition() -> None:
    """More than a batch may hold goes in several requests, in order, counted on."""
    large = [bytes([n]) * 700_000 for n in range(3)]
    broker = await committed({}, records(*large) + records(b"other", partition=1))
    sent = [[(p, batch) for _, parts, _ in it.topics for p, batch, _ in parts] for it in broker.sent(PRODUCE)]
    assert [[p for p, _ in parts] for parts in sent] == [[0, 1], [0], [0]]
    assert [int.from_bytes(parts[0][1][53:57]) for parts in sent] == [0, 1, 2]


async def test_a_position_alone_needs_no_leader() -> None:
    """Nothing is written where there is nothing to write."""
    assert [it.API_KEY for it in (await committed({}, [])).asked] == [INIT, COMMIT, END]


@pytest.mark.parametrize("level", [None, 1])
async def test_a_cluster_says_which_protocol_it_speaks(tmp_path: Path, level: int | None) -> None:
    """A new cluster speaks the second; one whose features were not raised the first, and transactions work there."""
    cluster = Cluster(
        tmp_path / "kafka", nodes=1, features=None if level is None else {"transaction.version": level}
    )
    await cluster.start()
    settings = Settings(data=tmp_path / "data", kafka=cluster.bootstrap(), replication=1)
    try:
        await ensure_topics(settings, [spec for spec in declared(settings) if spec.name == "signals"])
        client = AIOKafkaClient(**client_options(settings))
        await connect(settings, client, 30)
        assert await spoken(client) == (level is None)
        await client.close()
        log = KafkaLog(settings)
        await log.start()
        owner = await log.fence("signals", 0, lambda _: None)
        assert isinstance(owner._writer, TransactionsV2 if level is None else TransactionsV1)
        await owner.commit([Send("signals", b"k", b"v", (), 1)], 0)
        await (await log.fence("signals", 0, lambda _: None)).close()
        assert await log.committed("signals", 0) == 0
        await owner.close()
        await log.close()
    finally:
        await cluster.stop()
