"""The read_committed consumer of the latency benchmark; it too is a C client, for the load's reason.

Prints the latencies, from the produce call to the output in hand, in ms, as JSON.
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from schemas import events as e
from schemas.codec import Codec
from streams.settings import Settings


def main(warm_s: float, seconds: float) -> None:
    """Observe for `seconds` after `warm_s`."""
    settings = Settings()
    codec = Codec()
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap,
            "group.id": "bench-observer",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
        }
    )
    topic = settings.named("anomalies")
    consumer.assign([TopicPartition(topic, p, OFFSET_END) for p in range(settings.partitions)])
    latencies: list[float] = []
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + warm_s + seconds:
        message = consumer.poll(0.2)
        if message is None or message.error() is not None:
            continue
        now = time.monotonic()
        event = codec.decode(message.value())
        assert isinstance(event, e.AnomalyDetected)
        if now > begun + warm_s:
            latencies.append(round((now - event.value) * 1000, 2))
    consumer.close()
    print(json.dumps(latencies))


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
