from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas import events as e
from schemas import topics
from schemas.codec import Codec, Decoded
from schemas.envelope import Envelope
from schemas.errors import BrokerUnavailable, ConfigurationError, RecordTooLarge
from streams.kafka import client_options, records_of
from streams.producing.outgoing import Outgoing, prepare
from streams.replay import MalformedRecord, Report, replay, to_json_line
from streams.settings import Settings


class Kept:
    """Keeps what was sent; checks and encodes first, as the Producer does."""

    def __init__(self, settings: Settings) -> None:
        self.codec = Codec(max_record_bytes=settings.max_record_bytes)
        self.batches: list[list[Outgoing]] = []
        self.times: list[float] = []

    @property
    def sent(self) -> list[Outgoing]:
        return [item for batch in self.batches for item in batch]

    @property
    def ids(self) -> list[str]:
        return [item.envelope.id for item in self.sent]

    async def emit_many(self, items: Sequence[Outgoing]) -> None:
        for item in items:
            prepare(item, self.codec)
        self.batches.append(list(items))
        self.times.append(time.monotonic())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a small size limit."""
    return Settings(data=tmp_path / "data", max_record_bytes=2000)


def line(event_id: str, at: float = 0.0, event: e.Event | None = None, **more: str) -> str:
    """One event as a JSON line."""
    event = event or e.MetricReported(component="c", name="n", value=1.0)
    envelope = Envelope(id=event_id, source="x", type=type(event).__name__, time=at, **more)  # type: ignore[arg-type]
    return to_json_line(event, envelope).decode()


def written(tmp_path: Path, *lines: str) -> Path:
    """A file with these lines."""
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


async def test_all_is_sent(settings: Settings, tmp_path: Path) -> None:
    """Everything goes out in order, into the project and its replay clock, under its own ids."""
    kept = Kept(settings)
    file = written(tmp_path, *(line(str(n), at=float(n)) for n in range(2500)))
    seen: list[int] = []
    report = await replay(
        settings, "events", file, project="p", sink=kept, progress=lambda r: seen.append(r.sent)
    )
    assert kept.ids == [str(n) for n in range(2500)]
    assert {(x.envelope.project, x.envelope.clock, x.key) for x in kept.sent} == {("p", "replay", "c")}
    assert (report.read, report.sent, report.skipped, report.lines) == (2500, 2500, 0, 2500)
    assert (report.first_time, report.last_time) == (0.0, 2499.0)
    assert seen == [1000, 2000, 2500]
    assert report.elapsed_s > 0


async def test_project_is_named_after_the_format(settings: Settings, tmp_path: Path) -> None:
    """Without a name the project is that of the format; what lines say of theirs does not count."""
    kept = Kept(settings)
    report = await replay(settings, "events", written(tmp_path, line("1", project="other")), sink=kept)
    assert report.project == kept.sent[0].envelope.project == "events"


async def test_same_ids_again(settings: Settings, tmp_path: Path) -> None:
    """A second replay sends the same (project, source, id), so that readers drop it."""
    file = tmp_path / "series.csv"
    file.write_text("timestamp,value\n2014-04-01 00:00:00,1\n2014-04-01 00:05:00,2\n")
    one, two = Kept(settings), Kept(settings)
    for kept in (one, two):
        await replay(settings, "nab", file, sink=kept)
    assert one.sent == two.sent
    assert {x.envelope.source for x in one.sent} == {"replay:nab"}


async def test_bad_record_ends_it(settings: Settings, tmp_path: Path) -> None:
    """A malformed record is reported with file and line: all before it was sent, nothing after it."""
    kept = Kept(settings)
    file = written(tmp_path, line("1"), line("2"), '{"type": "x"}', line("4"))
    with pytest.raises(MalformedRecord, match=r"events\.jsonl, line 3: type: 'x' is no event type") as caught:
        await replay(settings, "events", file, sink=kept)
    assert "--skip-bad" in caught.value.hint
    assert (caught.value.file, caught.value.line) == (file, 3)
    assert kept.ids == ["1", "2"]


async def test_skip_bad(settings: Settings, tmp_path: Path) -> None:
    """With skip_bad the rest is sent, and what was left out is counted and named."""
    kept = Kept(settings)
    lines = [line("1"), "{", line("3"), *["nonsense"] * 30, line("x")]
    report = await replay(settings, "events", written(tmp_path, *lines), sink=kept, skip_bad=True)
    assert kept.ids == ["1", "3", "x"]
    assert (report.read, report.sent, report.skipped) == (34, 3, 31)
    assert len(report.bad) == 20
    assert report.bad[0].line == 2


@pytest.mark.parametrize("skip_bad", [True, False])
async def test_event_too_large(settings: Settings, tmp_path: Path, skip_bad: bool) -> None:
    """An event above the size limit is a bad record with its line, not a batch that fails."""
    kept = Kept(settings)
    large = e.RunStarted(run_id="r", agent_id="a", task="x" * 3000)
    file = written(tmp_path, line("1"), line("2", event=large), line("3"), line("4", event=large), line("5"))
    if skip_bad:
        report = await replay(settings, "events", file, sink=kept, skip_bad=True)
        assert kept.ids == ["1", "3", "5"]
        assert [bad.line for bad in report.bad] == [2, 4]
        assert (report.sent, report.skipped) == (3, 2)
    else:
        with pytest.raises(MalformedRecord, match=r"line 2: RunStarted takes [\d,]+ bytes"):
            await replay(settings, "events", file, sink=kept)
        assert kept.ids == ["1"]


async def test_envelope_that_is_refused(settings: Settings, tmp_path: Path) -> None:
    """A traceparent that is none makes the record bad."""
    kept = Kept(settings)
    file = written(tmp_path, line("1"), line("2", traceparent="nonsense"))
    with pytest.raises(MalformedRecord, match="line 2: traceparent 'nonsense' is not valid"):
        await replay(settings, "events", file, sink=kept)
    assert kept.ids == ["1"]


async def test_what_folds_write_is_passed_over(settings: Settings, tmp_path: Path) -> None:
    """Events that folds alone write are not sent into the project, and counted by type."""
    signal = e.Signal(component="c", kind="metric", name="n")
    kept = Kept(settings)
    file = written(tmp_path, line("1"), line("2", event=signal), line("3"), line("4", event=signal))
    report = await replay(settings, "events", file, sink=kept)
    assert kept.ids == ["1", "3"]
    assert report.passed_over == {"Signal": 2}


async def test_speed(settings: Settings, tmp_path: Path) -> None:
    """At speed 20, ten seconds of data take half a second, and each event goes out when it is due."""
    kept = Kept(settings)
    file = written(tmp_path, *(line(str(n), at=1e9 + n * 2.0) for n in range(6)))
    began = time.monotonic()
    await replay(settings, "events", file, sink=kept, speed=20.0)
    assert kept.ids == [str(n) for n in range(6)]
    for n, at in enumerate(kept.times):
        assert n * 0.1 - 0.03 <= at - began <= n * 0.1 + 0.5  # never early; late on a busy machine


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
async def test_no_speed(settings: Settings, tmp_path: Path, speed: float) -> None:
    """A speed that is none is refused before anything is read."""
    with pytest.raises(ConfigurationError, match="is not a speed"):
        await replay(settings, "events", tmp_path / "missing", speed=speed, sink=Kept(settings))


async def test_bad_project(settings: Settings, tmp_path: Path) -> None:
    """A project whose name is none is refused, and not taken for a fault of the first record."""
    kept = Kept(settings)
    with pytest.raises(ConfigurationError, match="'a/b'"):
        await replay(
            settings, "events", written(tmp_path, line("1")), project="a/b", sink=kept, skip_bad=True
        )


class Away:
    """Kafka when it is not there."""

    async def emit_many(self, items: Sequence[Outgoing]) -> None:
        raise BrokerUnavailable("gone")


async def test_lost_broker(settings: Settings, tmp_path: Path) -> None:
    """A lost broker is told as such, also with skip_bad: it says nothing about the record."""
    with pytest.raises(BrokerUnavailable):
        await replay(settings, "events", written(tmp_path, line("1")), sink=Away(), skip_bad=True)


class Strict:
    """A broker with a smaller limit than ours."""

    async def emit_many(self, items: Sequence[Outgoing]) -> None:
        raise RecordTooLarge("refused by Kafka")


async def test_broker_with_a_smaller_limit(settings: Settings, tmp_path: Path) -> None:
    """Where Kafka refuses what our limit allows, the settings are at fault, and the error says so."""
    with pytest.raises(ConfigurationError, match="within the configured limit"):
        await replay(settings, "events", written(tmp_path, line("1")), sink=Strict(), skip_bad=True)


async def read_all(settings: Settings) -> list[Decoded]:
    """Every record of the raw topics."""
    codec = Codec()
    consumer = AIOKafkaConsumer(**client_options(settings), auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [
            TopicPartition(settings.named(topic.name), n)
            for topic in topics.RAW
            for n in range(settings.raw_partitions)
        ]
        ends = await consumer.end_offsets(partitions)
        consumer.assign([p for p in partitions if ends[p]])
        await consumer.seek_to_beginning()
        found: list[Decoded] = []
        while len(found) < sum(ends.values()):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += map(codec.decode_record, records_of(records, settings.namespace))
        return found
    finally:
        await consumer.stop()


async def test_on_kafka(broker: Settings, data_set: Path) -> None:
    """tau-bench goes through the real producer into Kafka, once each, keyed by project and the event's key."""
    reports: list[Report] = []
    report = await replay(
        broker, "tau-bench", data_set / "tau-bench", project="replayed-tau-bench", progress=reports.append
    )
    assert report.sent == 5936
    found = [d for d in await read_all(broker) if d.envelope.project == "replayed-tau-bench"]
    assert len(found) == len({d.envelope.id for d in found}) == 5936
    assert {d.envelope.clock for d in found} == {"replay"}
    assert all(d.key == f"replayed-tau-bench/{topics.key_of(d.event)}" for d in found)
    finished = [d for d in found if isinstance(d.event, e.RunFinished)]
    assert len(finished) == 100
    assert all(
        d.envelope.correlation_id == d.event.run_id for d in finished if isinstance(d.event, e.RunFinished)
    )
