"""Anomaly: a streaming detector per component and metric."""

from __future__ import annotations

from processors.fold import Fold
from schemas import events as e
from schemas import topics


class Anomaly(Fold[None]):
    """Placeholder until the detector lands in the next commit; yields nothing."""

    name = "anomaly"
    topics = (topics.SIGNALS,)
    accepts = ()
    emits = (e.AnomalyDetected,)
