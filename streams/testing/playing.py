"""What happens to a simulation, as steps that can be played again: otherwise disturbed, or in another process."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec
import structlog

from processors.fold import Fold
from schemas import catalog
from schemas.avro_models import avro_schema
from schemas.codec import Codec
from schemas.envelope import Headers
from schemas.locks import schema_id
from schemas.registry import Registered, Registry
from schemas.topics import topic_of
from streams import simulation
from streams.simulation import Chaos, NeverDone
from streams.testing.watching import FoldFailed, Halt, plain, watched

T = TypeVar("T")


class Given(msgspec.Struct, frozen=True):
    """An event was appended to its topic, at the broker's time `at` (seconds since 1970) or later."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    at: float


class Passed(msgspec.Struct, frozen=True):
    """Time went on to `to`."""

    to: float


Step = Given | Passed


@cache
def codec_of_models() -> Codec:
    """Encodes every event type as its model is now, locked or not."""
    return Codec(
        Registry(
            [
                Registered(schema_id(definition), subject, 1, definition)
                for subject, model in catalog.by_subject().items()
                for definition in (avro_schema(model, catalog.namespace_of(subject)),)
            ]
        )
    )


class Play:
    """Steps played on one log in memory, as they come."""

    def __init__(
        self,
        folds: Iterable[Fold[Any]],
        start: float,
        *,
        chaos: Chaos | None = None,
        seed: int = 0,
        partitions: int = 1,
        closely: bool = False,
    ) -> None:
        originals, codec = tuple(folds), codec_of_models()
        self.run = simulation.Simulation(
            lambda: [watched(fold, codec, closely=closely) for fold in originals],
            seed=seed,
            chaos=chaos or Chaos(idle=0.0, workers=1),
            partitions=partitions,
            snapshot_interval_s=1e9 if chaos is None else 0.0,
            codec=codec,
            orderly=True,
        )
        self.run.log.now = start
        self._topics = sorted({topic_of(event).name for fold in originals for event in fold.emits})

    def step(self, step: Step) -> None:
        """Let one thing happen, and all that follows from it. Raises FoldFailed."""
        if isinstance(step, Passed):
            self._finish(self.run.pass_to(step.to))
            return
        self._finish(self.run.pass_to(step.at))
        self.run.log.append(step.topic, step.key, step.value, step.headers)
        self._finish(self.run.run())

    def steps(self, steps: Sequence[Step]) -> None:
        """The same for many."""
        for step in steps:
            self.step(step)

    def remains(self) -> dict[str, Any]:
        """What must be the same in each run: outputs by topic, and states, restored from the log."""
        outputs = {topic: [list(record) for record in self.run.contents(topic)] for topic in self._topics}
        states = self._finish(self.run.states())
        return {
            **{f"outputs of {topic}": records for topic, records in outputs.items()},
            "states": {f"{fold} of {key}": plain(state) for (fold, key), state in sorted(states.items())},
        }

    def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns. Nothing in memory is waited for, so no event loop is needed."""
        with structlog.testing.capture_logs():
            try:
                while True:
                    work.send(None)
            except StopIteration as done:
                result: T = done.value
                return result
            except Halt as halt:
                raise halt.error from halt.__cause__
            except NeverDone as error:
                raise FoldFailed(
                    f"the folds come to no end: {error}",
                    hint="one yields what it, or another, answers for ever, or asks to be woken at once again",
                ) from None
