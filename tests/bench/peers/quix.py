"""Quix Streams, exactly once, with three ways to keep state.

`memory`: all in process memory, nothing durable: its greatest speed.
`store`: running statistics in its state store (RocksDB and changelog), models in memory: what its
documentation shows for stateful work.
`durable`: the models, pickled, in its state store too: what ours gives.
"""

from __future__ import annotations

import base64
import pickle
import sys
from pathlib import Path
from typing import Any

from quixstreams import Application
from quixstreams.models import BytesSerializer, Deserializer, Topic

from schemas import events as e
from tests.bench.job import Models, decoder, encoder, learn
from tests.bench.peers.echo import echo
from tests.bench.peers.first import First


class Avro(Deserializer):
    """Its hook for values."""

    def __init__(self) -> None:
        super().__init__()
        self._decode = decoder()

    def __call__(self, value: bytes, ctx: Any) -> Any:
        return self._decode(value)


class Job:
    """The job in the three ways."""

    def __init__(self) -> None:
        self._models: dict[str, Models] = {}
        self._encode = encoder()
        self._first = First()

    def _of(self, key: str) -> Models:
        models = self._models.get(key)
        if models is None:
            models = self._models[key] = Models()
        return models

    def _learn(self, models: Models, event: e.Signal) -> bytes | None:
        if not self._first.said:
            self._first.say()
        output = learn(models, event)
        return None if output is None else self._encode(output)

    def memory(self, event: e.Signal, key: Any, timestamp: int, headers: Any) -> bytes | None:
        return self._learn(self._of(event.component), event)

    def store(self, event: e.Signal, state: Any) -> bytes | None:
        models = self._of(event.component)
        agent = event.agent_id or ""
        state.get(agent)
        output = self._learn(models, event)
        kept = models.agents[agent]
        state.set(agent, [kept.mean.get(), kept.variance.get(), kept.median.get()])
        return output

    def durable(self, event: e.Signal, state: Any) -> bytes | None:
        held = state.get("models")
        models = Models() if held is None else pickle.loads(base64.b64decode(held))
        output = self._learn(models, event)
        state.set("models", base64.b64encode(pickle.dumps(models, protocol=5)).decode())
        return output


def main(way: str, bootstrap: str, namespace: str, folder: Path, outputs: int, commit_s: float) -> None:
    """Run until `outputs` outputs were made (0: until SIGTERM); then its last checkpoint is committed."""
    app = Application(
        broker_address=bootstrap,
        consumer_group=f"{namespace}.quix",
        auto_offset_reset="earliest" if outputs else "latest",
        processing_guarantee="exactly-once",
        commit_interval=commit_s,
        consumer_poll_timeout=min(1.0, commit_s),
        auto_create_topics=True,
        state_dir=folder,
        loglevel="ERROR",
    )
    source = app.topic(f"{namespace}.signals", value_deserializer=Avro(), key_deserializer="str")
    target = Topic(f"{namespace}.anomalies", value_serializer=BytesSerializer(), key_serializer="str")
    frame = app.dataframe(source)
    job = Job()
    if way == "echo":
        encode = encoder()
        frame = frame.apply(lambda event: encode(echo(event)))
    elif way == "memory":
        frame = frame.apply(job.memory, metadata=True)
    else:
        frame = frame.apply(getattr(job, way), stateful=True)
    if way != "echo":
        frame = frame.filter(lambda value: value is not None)
    frame.to_topic(target)
    app.run(count=outputs, collect=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6]))
