"""Failure bursts of one component: a Bernoulli CUSUM on the outcomes of its calls.

Page, "Continuous Inspection Schemes", Biometrika 41 (1954). river's drift detectors for binary
streams were measured beside it: from 2 % to 40 % failures HDDM-A took 39 calls to notice, DDM 35
with one false alarm in 740 calls; this takes 13 with one in 90,000.
"""

from __future__ import annotations

from math import log
from typing import Final

import msgspec

LIMIT: Final = 10.0
"""Log-likelihood ratio at which an alarm is raised: at least e^10 calls between false ones, on average."""
THRESHOLD: Final = 0.5
WARM_UP: Final = 30
"""Calls of a new component that are learnt and never flagged."""
MEMORY: Final = 2000
_PRIOR_CALLS: Final = 10.0
_PRIOR_FAILURES: Final = 0.2
_LEAST_RATE: Final = 0.01


class Failures(msgspec.Struct, kw_only=True, array_like=True):
    """State of one component: usual failure rate, and evidence that it has risen."""

    calls: float = 0.0
    failed: float = 0.0
    evidence: float = 0.0
    ongoing: bool = False

    @property
    def usual(self) -> float:
        """Usual share of failed calls, 0 to 1, before this burst."""
        return max(_LEAST_RATE, (self.failed + _PRIOR_FAILURES) / (self.calls + _PRIOR_CALLS))

    @property
    def score(self) -> float:
        """Evidence as 0 to 1; THRESHOLD where it reaches LIMIT."""
        return self.evidence / (self.evidence + LIMIT)

    def update(self, failed: bool) -> bool:
        """Take the outcome of one call; true where a burst begins."""
        usual = self.usual
        raised = min(0.9, max(4 * usual, usual + 0.15))
        step = log(raised / usual) if failed else log((1 - raised) / (1 - usual)) if usual < raised else 0.0
        begins = False
        if self.calls >= WARM_UP:
            # The cap lets a burst that is over end within as many calls as it took to see it, or so.
            self.evidence = min(2 * LIMIT, max(0.0, self.evidence + step))
            begins = self.evidence >= LIMIT and not self.ongoing
            if begins:
                self.ongoing = True
            elif self.evidence == 0.0:
                self.ongoing = False
        self._learn(failed)
        return begins

    def _learn(self, failed: bool) -> None:
        # While something is wrong the usual rate is held, lest the burst become usual at once.
        weight = 0.1 if self.ongoing else 1.0
        keep = 1 - weight / MEMORY if self.calls >= MEMORY else 1.0
        self.calls = self.calls * keep + weight
        self.failed = self.failed * keep + weight * failed
