"""The pure compute of the job: decode and fold and encode, on records in memory, without Kafka.

Prints seconds of wall clock and of CPU for the given number of events, as JSON.
"""

from __future__ import annotations

import json
import sys
import time

from schemas import events as e
from schemas.codec import Codec, Record
from streams.folding.worker import BATCH
from streams.producing.partitioner import partition_for
from streams.runner import tune_garbage_collection
from tests.bench.ground import PARTITIONS
from tests.bench.job import Models, learn, records


def main(count: int) -> None:
    """The same folds on the same bytes as the engines get."""
    codec = Codec()
    held = [
        Record("signals", 0, offset, 0.0, key.encode(), value, headers)
        for offset, (key, value, headers) in enumerate(records(count))
    ]
    # In the order in which an engine gets them, which keeps the models of few keys in the caches.
    held.sort(key=lambda r: (r.offset // (BATCH * PARTITIONS), partition_for(r.key or b"", PARTITIONS)))
    states: dict[str, Models] = {}
    outputs = 0
    tune_garbage_collection()
    wall, cpu = time.perf_counter(), time.process_time()
    for record in held:
        decoded = codec.decode_record(record)
        assert isinstance(decoded.event, e.Signal)
        models = states.get(decoded.key)
        if models is None:
            models = states[decoded.key] = Models()
        output = learn(models, decoded.event)
        if output is not None:
            codec.encode(output)
            outputs += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "outputs": outputs}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
