"""Views as they were: the rows at a cut of the log, made from their histories and the records beside it."""

from projections.past.asking import Past
from projections.past.cut import BadMoment, Log
from projections.past.state import State

__all__ = ["BadMoment", "Log", "Past", "State"]
