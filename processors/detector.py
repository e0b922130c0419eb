"""Streaming anomaly detector for one metric of one component.

Three statistics are watched: distance from the long-run level, distance of the recent mean from
it, and distance from what this time of day has shown. Each is turned into a tail probability by
its own history, so that one threshold serves every series. river's own detectors were measured
first and did worse on NAB (Gaussian scorer, half-space trees, ADWIN, Page-Hinkley).
"""

from __future__ import annotations

from math import log, log10
from typing import Final, Literal

import msgspec

Part = Literal["extreme", "shift", "season"]

THRESHOLD: Final = 0.5
"""A score at or above this is an alarm; the same for every series."""
ALARM_SURPRISE: Final = 4.0
"""-log10 of the tail probability at which the score reaches THRESHOLD (1 in 10,000)."""
WARM_UP: Final = 30
"""Points of a new series that are learnt and never flagged."""
MEMORY: Final = 2000
"""Points after which the long-run averages forget (exponentially)."""
RECENT: Final = 12
"""Points of the recent mean, and of the gap between what is tested and what is learnt."""
QUIET: Final = 50
"""Points below the alarm surprise that end an incident."""
ESCALATION: Final = 2.0
"""Growth over an incident's highest surprise that is a new alarm, more than RECENT points in."""
SLOTS: Final = 48
"""Slots of the day in the season profile, 30 minutes each."""

_DAY_S: Final = 86_400.0
_FORGET_PER_DAY: Final = 0.1
_MIN_TAIL: Final = 10
_MIN_SEASON_TAIL: Final = 100
_CLIP: Final = 6.0
_FLOOR_OF_HIGH: Final = 0.1
_FLOOR_OF_LEVEL: Final = 0.01
_LARGEST: Final = 1e300
_LARGEST_RATIO: Final = 1e6


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the detector says of one point; `expected` is in the metric's own unit."""

    score: float
    """0 to 1; THRESHOLD or more only where an alarm starts, held below it while one goes on."""
    anomalous: bool
    ongoing: bool
    """True from an alarm until QUIET unsurprising points have passed."""
    surprise: float
    """-log10 of the tail probability, not held back during an incident."""
    expected: float
    part: Part | None
    """The statistic that is most surprising, None where none is."""


class Tail(msgspec.Struct, kw_only=True):
    """Upper tail of a distance (0 or more) as an exponential beyond an adaptive high mark.

    A peaks-over-threshold estimate (Siffer et al., "Anomaly Detection in Streams with Extreme
    Value Theory", KDD 2017) with shape 0 and moments in place of a fit: `typical` is the mean,
    `high` the mean of what exceeds it, `excess` the mean distance beyond `high`, `share` how
    often that happens, so P(D > d) = share * exp(-(d - high) / excess).
    """

    seen: int = 0
    over_typical: int = 0
    over_high: int = 0
    typical: float = 0.0
    high: float = 0.0
    excess: float = 0.0
    share: float = 1.0

    def surprise(self, distance: float, unit: float, least: int) -> float:
        """Return -log10 P(D > distance), 0 within the high mark or before `least` distances."""
        if self.seen < least or distance <= self.high:
            return 0.0
        scale, beyond = self._scale(unit), distance - self.high
        ratio = beyond / scale if beyond < scale * _LARGEST_RATIO else _LARGEST_RATIO
        return ratio / log(10.0) - log10(self.share)

    def clip(self, distance: float, unit: float, least: int) -> float:
        """Return the distance, limited so that one outlier cannot blind the detector."""
        scale = self._scale(unit)
        if self.seen < least or scale == 0.0:
            return distance
        return min(distance, self.high + _CLIP * scale)

    def learn(self, distance: float, unit: float, least: int) -> None:
        """Add one distance, clipped."""
        distance = self.clip(distance, unit, least)
        self.seen = min(self.seen + 1, MEMORY)
        exceeds = 0.0 < self.high < distance
        if exceeds:
            self.over_high = min(self.over_high + 1, MEMORY)
            self.excess += (distance - self.high - self.excess) / self.over_high
        if distance > self.typical:
            self.over_typical = min(self.over_typical + 1, MEMORY)
            self.high += (distance - self.high) / self.over_typical
        self.typical += (distance - self.typical) / self.seen
        # Never below one in MEMORY: rarer than that was not observed.
        self.share = max(self.share + (exceeds - self.share) / self.seen, 1.0 / MEMORY)

    def _scale(self, unit: float) -> float:
        return max(self.excess, _FLOOR_OF_HIGH * self.high, unit)


class Span(msgspec.Struct, kw_only=True):
    """Lowest and highest value seen in one visit to a slot of the day."""

    slot: int
    low: float
    high: float


class DayProfile(msgspec.Struct, kw_only=True):
    """Range of values by time of day: grows at once, shrinks by a tenth of the gap a day.

    A visit is added only when the next slot is over too. Added at once, an anomaly would widen
    the range its own neighbours are compared with.
    """

    lows: list[float | None] = msgspec.field(default_factory=lambda: [None] * SLOTS)
    highs: list[float | None] = msgspec.field(default_factory=lambda: [None] * SLOTS)
    open: Span | None = None
    closing: Span | None = None

    def visit(self, at: float, value: float) -> tuple[float, float] | None:
        """Add a value (at: epoch seconds); return the range known before it, with neighbours."""
        slot = min(int(at % _DAY_S / _DAY_S * SLOTS), SLOTS - 1)
        if self.open is None or self.open.slot != slot:
            if self.closing is not None:
                self._add(self.closing)
            self.closing, self.open = self.open, Span(slot=slot, low=value, high=value)
        else:
            self.open.low = min(self.open.low, value)
            self.open.high = max(self.open.high, value)
        return self._range(slot)

    def _range(self, slot: int) -> tuple[float, float] | None:
        low, high = self.lows[slot], self.highs[slot]
        if low is None or high is None:
            return None
        for near in (slot - 1, slot + 1 - SLOTS):
            near_low, near_high = self.lows[near], self.highs[near]
            if near_low is not None and near_low < low:
                low = near_low
            if near_high is not None and near_high > high:
                high = near_high
        return low, high

    def _add(self, seen: Span) -> None:
        low, high = self.lows[seen.slot], self.highs[seen.slot]
        if low is None or high is None:
            self.lows[seen.slot], self.highs[seen.slot] = seen.low, seen.high
            return
        self.lows[seen.slot] = min(seen.low, low + _FORGET_PER_DAY * (seen.low - low))
        self.highs[seen.slot] = max(seen.high, high + _FORGET_PER_DAY * (seen.high - high))


class Distances(msgspec.Struct, kw_only=True, array_like=True):
    """The three distances of one point, kept until they are old enough to be learnt."""

    deviation: float
    shift: float | None
    outside: float | None


class Detector(msgspec.Struct, kw_only=True):
    """Anomaly detector of one (component, metric); all state is plain msgpack values."""

    seen: int = 0
    level: float = 0.0
    recent: float = 0.0
    above: Tail = msgspec.field(default_factory=Tail)
    below: Tail = msgspec.field(default_factory=Tail)
    shift: Tail = msgspec.field(default_factory=Tail)
    season: Tail = msgspec.field(default_factory=Tail)
    profile: DayProfile = msgspec.field(default_factory=DayProfile)
    pending: list[Distances] = msgspec.field(default_factory=list)
    peak: float = 0.0
    """Highest surprise of the incident that is going on, 0 when none is."""
    quiet: int = 0
    since_alarm: int = 0

    def update(self, value: float, at: float) -> Verdict:
        """Judge one point (`at`: event time, epoch seconds), then learn from it.

        Times may repeat or go back; only the time of day is used. Infinite values are taken as
        the largest number handled, 1e300.
        """
        value = max(-_LARGEST, min(_LARGEST, value))
        if self.seen == 0:
            self.level = self.recent = value
        self.seen = min(self.seen + 1, MEMORY)
        usual = self.profile.visit(at, value)
        expected = self.level if usual is None else min(max(self.level, usual[0]), usual[1])
        self.recent += (value - self.recent) / min(self.seen, RECENT)
        distances = self._distances(value, usual)
        surprise, part = self._judge(distances)
        self._learn(distances)
        return self._verdict(surprise, part, expected)

    def _distances(self, value: float, usual: tuple[float, float] | None) -> Distances:
        return Distances(
            deviation=value - self.level,
            # The recent mean of a new series is still the mean of nearly nothing.
            shift=abs(self.recent - self.level) if self.seen > RECENT else None,
            outside=None if usual is None else max(0.0, usual[0] - value, value - usual[1]),
        )

    def _judge(self, distances: Distances) -> tuple[float, Part | None]:
        """Return the highest surprise and its part; an extreme that is usual now is none.

        The season's is the mean with the extreme's (a geometric mean of tail probabilities): on
        noise alone, the range of a time of day is left often by values common at other times.
        """
        if self.seen <= WARM_UP:
            return 0.0, None
        unit, outside = self._unit(), distances.outside
        side, deviation = self._side(distances.deviation), abs(distances.deviation)
        extreme = side.surprise(deviation, unit, _MIN_TAIL)
        best: tuple[float, Part | None] = (0.0, None)
        if distances.shift is not None:
            best = self.shift.surprise(distances.shift, unit, _MIN_TAIL), "shift"
        if outside is not None and outside > 0.0:
            season = self.season.surprise(outside, unit, _MIN_SEASON_TAIL)
            best = max(best, ((season + extreme) / 2.0, "season"), key=_surprise)
        if outside is None or outside > 0.0:
            best = max(best, (extreme, "extreme"), key=_surprise)
        return best if best[0] > 0.0 else (0.0, None)

    def _learn(self, distances: Distances) -> None:
        """Move the level at once, by a clipped step; teach the tails RECENT points later.

        Late, because a fault that lasts would else teach the tails that it is usual before the
        recent mean has moved enough to show it.
        """
        unit = self._unit()
        deviation = distances.deviation
        step = self._side(deviation).clip(abs(deviation), unit, _MIN_TAIL)
        self.pending.append(distances)
        if len(self.pending) > RECENT:
            old = self.pending.pop(0)
            self._side(old.deviation).learn(abs(old.deviation), unit, _MIN_TAIL)
            if old.shift is not None:
                self.shift.learn(old.shift, unit, _MIN_TAIL)
            if old.outside is not None:
                self.season.learn(old.outside, unit, _MIN_SEASON_TAIL)
        self.level += (step if deviation > 0.0 else -step) / self.seen

    def _verdict(self, surprise: float, part: Part | None, expected: float) -> Verdict:
        """Turn a surprise into a score; within an incident only an escalation is an alarm."""
        loud = surprise >= ALARM_SURPRISE
        # A fault's onset may double from one point to the next: not an escalation yet.
        settled = self.since_alarm > RECENT and surprise >= ESCALATION * self.peak
        anomalous = loud and (self.peak == 0.0 or settled)
        self.since_alarm = 0 if anomalous else min(self.since_alarm + 1, MEMORY)
        self.quiet = 0 if loud else self.quiet + 1
        if loud:
            self.peak = max(self.peak, surprise)
        elif self.quiet >= QUIET:
            self.peak, self.quiet = 0.0, 0
        score = surprise / (surprise + ALARM_SURPRISE)
        return Verdict(
            score=score if anomalous or not loud else THRESHOLD * 0.98,
            anomalous=anomalous,
            ongoing=self.peak > 0.0,
            surprise=surprise,
            expected=expected,
            part=part,
        )

    def _side(self, deviation: float) -> Tail:
        return self.above if deviation > 0.0 else self.below

    def _unit(self) -> float:
        """Return the least scale of a distance: a change this small is no anomaly."""
        return _FLOOR_OF_LEVEL * abs(self.level)


def _surprise(judged: tuple[float, Part | None]) -> float:
    return judged[0]
