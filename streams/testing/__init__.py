"""A test harness for folds of your own, without a broker: the tasks that run on Kafka, over a log in memory.

sim = Simulation([ErrorCounts()])
sim.give(Signal(component="tool:search", kind="call", name="latency_ms", failed=True))
sim.advance(3600)
assert sim.outputs(ErrorsPiledUp) == [...]
sim.check()
"""

from streams.extensions import require_whole
from streams.testing.checking import Checked, CheckFailed
from streams.testing.simulation import START, Replayed, Simulation
from streams.testing.watching import FoldFailed

__all__ = ["START", "CheckFailed", "Checked", "FoldFailed", "Replayed", "Simulation", "require_whole"]
