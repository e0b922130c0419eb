"""The simulation as users have it: give events, let time go on, look at outputs and states."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime
from difflib import unified_diff
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from processors.fold import Fold
from processors.fold_rules import fold_rules
from schemas import catalog, topics
from schemas.codec import Decoded
from schemas.envelope import Clock, format_time, to_headers
from schemas.errors import ConfigurationError, InvalidEvent
from schemas.events import Event
from streams.producing.outgoing import Outgoing, address
from streams.replay import events as captured
from streams.replay.record import BadRecord, MalformedRecord, Options
from streams.testing.checking import Checked, check
from streams.testing.playing import Given, Passed, Play, Step, codec_of_models
from streams.testing.watching import plain

E = TypeVar("E", bound=Event)
START = 1_767_225_600.0
"""When a simulation begins unless told: 2026-01-01T00:00:00Z, in seconds since 1970."""
UPDATE = "HEADWATER_UPDATE_SNAPSHOTS"


class Replayed(NamedTuple):
    """What became of a captured file: events given, and those passed over, by type.

    Passed over are types that the folds make themselves, or that none of them reads.
    """

    given: int
    passed_over: dict[str, int]


class Simulation:
    """Folds over a log in memory: the runner's own tasks, without a broker and without waiting.

    Time stands still but for `advance`, and for events that are given at a later time. Methods raise
    FoldFailed where a fold raises or does what it must not, at once; on a running instance the event
    would be a dead letter.
    """

    def __init__(self, folds: Iterable[Fold[Any]], *, start: float | datetime = START) -> None:
        """Raises ConfigurationError where a fold declares what cannot be."""
        self.folds = tuple(folds)
        for fold in self.folds:
            for says, do in fold_rules(fold):
                raise ConfigurationError(says + _faults(), hint=do)
        names = [fold.name for fold in self.folds]
        if len(set(names)) < len(names) or not names:
            raise ConfigurationError(f"the folds are called {names}", hint="give some, each of another name")
        self._start = _seconds(start)
        self._play = Play(self.folds, self._start)
        self._steps: list[Step] = []
        self._read = {topic.name for fold in self.folds for topic in fold.topics}

    @property
    def now(self) -> float:
        """The simulation's time, seconds since 1970."""
        return self._play.run.log.now

    def give(
        self,
        event: Event,
        *,
        key: str | None = None,
        at: float | datetime | None = None,
        project: str = "default",
        id: str | None = None,
        clock: Clock = "live",
        correlation_id: str | None = None,
    ) -> None:
        """Append an event to its topic, and let the folds have it.

        `key` is its own by default. `at` is event time (seconds since 1970, or a datetime), now by default;
        a later one moves the simulation's time there first, an earlier one is a late event. An `id` given
        twice is a duplicate. Raises InvalidEvent.
        """
        topic = topics.topic_of(type(event))
        if topic.name not in self._read:
            raise InvalidEvent(
                f"{type(event).__name__} goes to {topic.name}, and none of the folds reads it: they read "
                + ", ".join(sorted(self._read)),
                hint="give what they read, or simulate the fold between too, such as processors.intake.Intake()",
            )
        time = self.now if at is None else _seconds(at)
        said = address(
            event,
            "simulation",
            {
                "project": project,
                "key": key,
                "id": id or f"event-{len(self._steps) + 1}",
                "time": time,
                "correlation_id": correlation_id,
                "clock": clock,
            },
        )
        self._append(said, topic.name, max(self.now, time) if clock == "live" else self.now)

    def advance(self, seconds: float) -> None:
        """Let time go on; folds that asked to be woken are, each at its moment."""
        self._happen(Passed(self.now + seconds))

    def replay(self, path: str | Path, *, project: str = "default") -> Replayed:
        """Give the events of a file that `headwater tail --json` wrote, or of a folder of such files.

        What the folds make themselves is left out: they make it again. The project's time is that of the data,
        as `headwater replay` has it. Raises MalformedRecord with file and line, NothingToReplay.
        """
        made = {event for fold in self.folds for event in fold.emits}
        given, passed_over = 0, dict[str, int]()
        for item in captured.read(Path(path), Options()):
            if isinstance(item, BadRecord):
                raise MalformedRecord(item)
            kind, topic = type(item.event), topics.topic_of(type(item.event)).name
            if kind in made or topic not in self._read:
                passed_over[kind.__name__] = passed_over.get(kind.__name__, 0) + 1
                continue
            said = address(
                item.event,
                item.source or "captured",
                {
                    "project": project,
                    "key": item.key,
                    "id": item.id,
                    "time": item.time,
                    "correlation_id": item.correlation_id,
                    "causation_id": item.causation_id,
                    "traceparent": item.traceparent,
                    "subject": item.subject,
                    "clock": "replay",
                },
            )
            self._append(said, topic, self.now)
            given += 1
        return Replayed(given, passed_over)

    def outputs(self, event_type: type[E]) -> list[E]:
        """All events of a type that the folds have written, in order."""
        return [
            decoded.event for decoded in self.emitted(event_type) if isinstance(decoded.event, event_type)
        ]

    def emitted(self, event_type: type[Event]) -> list[Decoded]:
        """The same with key and envelope: id, time, project, what caused it."""
        if not any(event_type in fold.emits for fold in self.folds):
            raise InvalidEvent(
                f"none of the folds emits {event_type.__name__}", hint="add it to the `emits` of one"
            )
        written = self._play.run.outputs(topics.topic_of(event_type).name)
        return [decoded for decoded in written if type(decoded.event) is event_type]

    def state(self, fold: type[Fold[Any]] | str, key: str, *, project: str = "default") -> Any:
        """What a fold keeps of a key; None where it has no state of it."""
        name = fold if isinstance(fold, str) else fold.name
        if name not in {each.name for each in self.folds}:
            raise InvalidEvent(f"there is no fold {name} here", hint="give it to the simulation")
        return self._play.run.held().get((name, f"{project}/{key}"))

    def snapshot(self) -> dict[str, Any]:
        """All states and all that was written, as JSON's values."""
        states: dict[str, dict[str, Any]] = {}
        for (fold, key), state in sorted(self._play.run.held().items()):
            states.setdefault(fold, {})[key] = plain(state)
        emits = dict.fromkeys(event for fold in self.folds for event in fold.emits)
        outputs = [
            {
                "type": decoded.envelope.type,
                "key": decoded.key,
                "time": format_time(decoded.envelope.time),
                "data": plain(dict(decoded.event.__dict__)),
            }
            for event in emits
            for decoded in self.emitted(event)
        ]
        return {"states": states, "outputs": outputs}

    def assert_snapshot(self, path: str | Path) -> None:
        """Compare the snapshot with a file. Raises AssertionError showing what differs.

        Where there is no file yet, it is written, and the test fails once, so that somebody looks at it.
        With HEADWATER_UPDATE_SNAPSHOTS set it is written anew.
        """
        path = Path(path)
        now = json.dumps(self.snapshot(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        if path.exists() and not os.environ.get(UPDATE):
            was = path.read_text()
            if was != now:
                lines = unified_diff(was.splitlines(), now.splitlines(), "stored", "now", lineterm="", n=2)
                raise AssertionError(
                    f"the snapshot differs from {path}; {UPDATE}=1 takes it as it is now\n" + "\n".join(lines)
                )
            return
        existed = path.exists()
        path.write_text(now)
        if not existed:
            raise AssertionError(f"{path} was not there and is written: look at it, then run the test again")

    def check(self, runs: int = 20) -> Checked:
        """Prove that the folds come to the same after a crash at any moment, in any process, at any time.

        All that happened so far happens again: watched for clocks, chance and I/O; `runs` times with crashes,
        restores from snapshots, rebalances and workers that do not know that they were replaced; and in
        another process with another hash seed. Raises CheckFailed, FoldFailed.
        """
        return check(self.folds, self._start, self._steps, runs)

    def _append(self, said: Outgoing, topic: str, at: float) -> None:
        key = f"{said.envelope.project}/{said.key}".encode()
        headers = tuple(to_headers(said.envelope))
        self._happen(Given(topic, key, codec_of_models().encode(said.event), headers, at))

    def _happen(self, step: Step) -> None:
        self._steps.append(step)
        self._play.step(step)


def _seconds(moment: float | datetime) -> float:
    if not isinstance(moment, datetime):
        return float(moment)
    if moment.tzinfo is None:
        raise InvalidEvent(f"{moment} has no time zone", hint="datetime(…, tzinfo=UTC)")
    return moment.timestamp()


def _faults() -> str:
    """What may be the cause of a type's not being known."""
    said = [f"package {fault.package}: {fault.says}" for fault in catalog.survey().faults]
    return f" ({'; '.join(said)})" if said else ""
