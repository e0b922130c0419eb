"""The load of the latency benchmark: signals at an even rate, through librdkafka, each sent at once.

A C client, so that the load generator takes little of the two cores that are measured. The value of
a signal is the monotonic clock at the call that produces it.
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Producer

from schemas import events as e
from schemas.codec import Codec
from schemas.envelope import Envelope, new_id, to_headers
from streams.settings import Settings

KEYS = 200


def main(rate: float, seconds: float) -> None:
    """Prints the count and by how much sending was late at worst, in ms, as JSON."""
    settings = Settings()
    codec = Codec()
    producer = Producer(
        {
            "bootstrap.servers": settings.bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 0,
            "partitioner": "murmur2_random",
        }
    )
    topic = settings.named("signals")
    producer.list_topics(topic, timeout=30)
    begun, sent, late = time.monotonic(), 0, 0.0
    while (now := time.monotonic()) < begun + seconds:
        due = int((now - begun) * rate)
        while sent < due:
            component = f"agent:{sent % KEYS:03d}"
            headers = to_headers(
                Envelope(id=new_id(), source="bench", type="Signal", time=time.time(), subject=component)
            )
            now = time.monotonic()
            late = max(late, now - (begun + (sent + 1) / rate))
            event = e.Signal(component=component, kind="metric", name="latency_ms", value=now, unit="ms")
            producer.produce(topic, codec.encode(event), f"default/{component}", headers=[*headers])
            sent += 1
        producer.poll(0)
        time.sleep(max(0.0, begun + (sent + 1) / rate - time.monotonic()))
    left = producer.flush(30)
    print(json.dumps({"sent": sent, "not_acknowledged": left, "late_ms": round(late * 1000, 1)}))


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
