"""The process `folds`: every fold of the catalog, hosted exactly once on Kafka."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from processors.catalog import folds as catalog
from processors.fold import Fold
from processors.fold_rules import state_rules
from processors.versions import by_name
from schemas import topics
from schemas.codec import Codec
from schemas.errors import ConfigurationError, HeadwaterError
from streams.admin import declared, require_topics
from streams.codec import codec_of
from streams.folding.report import report
from streams.folding.task import PartitionTask
from streams.partitions.kafka_log import DEADLINE_S, KafkaLog
from streams.partitions.log import FOLDS, crash_points
from streams.partitions.worker import Worker
from streams.secret import secret_of
from streams.settings import Settings
from streams.supervision.status import ProcessStatus
from streams.versions.decisions import Decisions

log = structlog.get_logger()
_FOLLOW_S = 1.0
Folds = Callable[[], Iterable[Fold[Any]]]


def tune_garbage_collection() -> None:
    """Collect cycles less often: records and models have none, and looking for them took a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


class Runner:
    """The folds of one group in this process."""

    def __init__(
        self,
        settings: Settings,
        folds: Folds = catalog,
        *,
        group: str = FOLDS,
        declared: Iterable[topics.Topic] = (),
    ) -> None:
        self.settings = settings
        self._folds = folds
        self._group = group
        self._topics = {t.name: t for fold in folds() for t in fold.topics} | {t.name: t for t in declared}
        for fold in folds():
            for says, do in state_rules(fold):
                raise ConfigurationError(says, hint=do)
        self._log = KafkaLog(settings, group)
        self._codec: Codec | None = None
        self._decisions: Decisions | None = None
        self._secret = secret_of(settings)
        self._step = crash_points()
        self.worker: Worker[PartitionTask] = Worker(settings, group, self._topics, self._task, self._step)

    def _task(self, topic: str, partition: int) -> PartitionTask:
        def of_topic() -> list[Fold[Any]]:
            return [f for f in self._folds() if topic in {t.name for t in f.topics}]

        assert self._codec is not None and self._decisions is not None, "run() first"  # noqa: PT018
        return PartitionTask(
            self._topics[topic],
            partition,
            of_topic,
            self._log,
            codec=self._codec,
            secret=self._secret,
            context=self.settings.named(self._group),
            group=self._group,
            step=self._step,
            decisions=self._decisions,
            nudge=lambda: self.worker.nudge(topic, partition),
        )

    async def prepare(self) -> None:
        """Connect, and see to it that of every fold a version is in force that is installed here.

        Raises VersionNotInstalled, ConfigurationError, BrokerUnavailable.
        """
        self._codec = await codec_of(self.settings, keeps=True)
        await self._log.start()
        self._decisions = Decisions(self._log, self._codec)
        counts = {spec.name: spec.partitions for spec in declared(self.settings, self._folds())}
        await self._decisions.establish(by_name(self._folds()), counts, time.time())

    async def close(self) -> None:
        """Disconnect."""
        await self._log.close()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`."""
        tune_garbage_collection()
        await require_topics(self.settings, declared(self.settings, self._folds()), DEADLINE_S)
        following = None
        try:
            await self.prepare()
            following = asyncio.create_task(self._follow(), name="decisions")
            await self.worker.run(stop)
        finally:
            if following is not None:
                following.cancel()
            await self.close()

    async def _follow(self) -> None:
        """Let the tasks know what is decided, soon after it is."""
        assert self._decisions is not None
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                if await self._decisions.refresh():
                    self.worker.nudge_all()
            except HeadwaterError as error:
                log.warning("versions.retry", why=str(error))
            except Exception:
                log.exception("versions.retry")  # else nobody would hear of what is decided from then on


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """The `folds` process."""
    runner = Runner(settings)
    reporting = asyncio.create_task(report(runner.worker, ProcessStatus(settings, "folds")))
    try:
        await runner.run(stop)
    finally:
        reporting.cancel()
