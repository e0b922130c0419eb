"""A simulated fleet of agents: seeded, endless, with faults that it logs as ground truth."""

from streams.fleet_simulation.fleet import Fleet, Timed, timed_events

__all__ = ["Fleet", "Timed", "timed_events"]
