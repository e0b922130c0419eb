"""The job that every engine does: decode, three running statistics, two models, an output every tenth event.

Knows no engine and no Kafka, so that each engine does the same work on the same bytes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

from river import anomaly, linear_model, preprocessing, stats

from schemas import events as e
from schemas.codec import Codec
from schemas.envelope import Envelope, to_headers

TOOLS = 24
AGENTS = 200
EVERY = 10
_EPOCH = 1_790_000_000.0


class Statistics:
    """Running statistics of one agent's calls of a tool."""

    __slots__ = ("mean", "median", "variance")

    def __init__(self) -> None:
        self.mean = stats.EWMean(0.05)
        self.variance = stats.EWVar(0.05)
        self.median = stats.Quantile(0.5)


class Models:
    """What is kept of one tool, which is the key: two models, and the statistics of each agent."""

    def __init__(self) -> None:
        self.count = 0
        self.agents: dict[str, Statistics] = {}
        self.trees: Any = anomaly.HalfSpaceTrees(n_trees=10, height=6, window_size=100, seed=7)
        self.failing: Any = preprocessing.StandardScaler() | linear_model.LogisticRegression()


def learn(models: Models, event: e.Signal) -> e.AnomalyDetected | None:
    """One event into the models; every tenth of a key gives an output."""
    value, agent, tokens = event.value or 0.0, event.agent_id or "", float(event.input_tokens or 0)
    statistics = models.agents.get(agent)
    if statistics is None:
        statistics = models.agents[agent] = Statistics()
    statistics.mean.update(value)
    statistics.variance.update(value)
    statistics.median.update(value)
    mean = statistics.mean.get()
    squashed = {"value": 1 / (1 + math.exp(-(value - mean) / 100)), "tokens": tokens / 4096}
    models.trees.learn_one(squashed)
    features = {"value": value, "mean": mean, "tokens": tokens}
    risk = models.failing.predict_proba_one(features).get(True, 0.0)
    models.failing.learn_one(features, bool(event.failed))
    models.count += 1
    if models.count % EVERY:
        return None
    return e.AnomalyDetected(
        component=event.component,
        metric=event.name,
        value=value,
        expected=float(statistics.median.get() or 0.0),
        score=min(1.0, max(0.0, float(models.trees.score_one(squashed)))),
        threshold=min(1.0, max(0.0, float(risk))),
        severity="info",
        detector="bench",
    )


def records(count: int, seed: int = 7) -> Iterator[tuple[str, bytes, list[tuple[str, bytes]]]]:
    """`count` signals as (record key, value, headers), tools in turn: the last of each gives an output.

    Raises ValueError where a tool would not get a multiple of ten.
    """
    if count % (TOOLS * EVERY):
        raise ValueError(f"{count} events over {TOOLS} tools: each has to get a multiple of {EVERY}")
    codec = Codec()
    rng = random.Random(seed)
    for number in range(count):
        component = f"tool:{number % TOOLS:02d}"
        failed = rng.random() < 0.05
        event = e.Signal(
            component=component,
            kind="call",
            name="latency_ms",
            value=rng.lognormvariate(5, 0.5) * (3 if failed else 1),
            unit="ms",
            failed=failed,
            agent_id=f"agent-{rng.randrange(AGENTS):03d}",
            input_tokens=rng.randrange(50, 4000),
            output_tokens=rng.randrange(10, 900),
        )
        yield f"default/{component}", codec.encode(event), to_headers(_envelope(number, component))


def _envelope(number: int, component: str) -> Envelope:
    return Envelope(
        id=f"{number:032x}",
        source="bench",
        type="Signal",
        time=_EPOCH + number / 1000,
        subject=component,
    )


def decoder() -> Any:
    """For engines with a hook for values: bytes to Signal, as our own codec does it."""
    return Codec().decode


def encoder() -> Any:
    """Event to bytes, as our own codec does it."""
    return Codec().encode
