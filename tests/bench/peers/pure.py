"""The pure compute of the job: decode and fold and encode, on records in memory, without Kafka.

Says `ready`, stops itself (SIGSTOP) until its first turn, computes until SIGTERM or the last record, and
prints as JSON how many events it did and the CPU time of each, in microseconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from schemas import events as e
from schemas.codec import Codec, Record
from streams.partitions.worker import BATCH
from streams.producing.partitioner import partition_for
from streams.runner import tune_garbage_collection
from tests.bench.ground import PARTITIONS
from tests.bench.job import Models, learn, records


def main(count: int) -> None:
    """The same folds on the same bytes as the engines get."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    codec = Codec()
    held = [
        Record("signals", 0, offset, 0.0, key.encode(), value, headers)
        for offset, (key, value, headers) in enumerate(records(count))
    ]
    # In the order in which an engine gets them, which keeps the models of few keys in the caches.
    held.sort(key=lambda r: (r.offset // (BATCH * PARTITIONS), partition_for(r.key or b"", PARTITIONS)))
    states: dict[str, Models] = {}
    events = 0
    tune_garbage_collection()
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    began = time.process_time()
    for record in held:
        decoded = codec.decode_record(record)
        assert isinstance(decoded.event, e.Signal)
        models = states.get(decoded.key)
        if models is None:
            models = states[decoded.key] = Models()
        output = learn(models, decoded.event)
        if output is not None:
            codec.encode(output)
        events += 1
        if stopping:
            break
    used = time.process_time() - began
    print(json.dumps({"events": events, "cpu_us_per_event": used / events * 1e6}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
