"""Scoring rule of the Numenta Anomaly Benchmark (NAB), as pure functions over row numbers.

Source: Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms" (2015),
https://arxiv.org/abs/1510.03336, section II; positions are counted in rows, as numenta/NAB does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from math import exp, fsum
from typing import Final, NamedTuple

PROBATION_SHARE: Final = 0.15
PROBATION_MAX_ROWS: Final = 750
FAR_AFTER_WINDOW: Final = 3.0
"""Window widths after which a false alarm is charged in full."""


class Profile(NamedTuple):
    """What a detected window earns, and what a missed one and a false alarm cost."""

    tp: float
    fn: float
    fp: float


class Window(NamedTuple):
    """An anomaly window as row numbers, both inclusive."""

    first: int
    last: int

    @property
    def width(self) -> int:
        """Rows in the window."""
        return self.last - self.first + 1


class Series(NamedTuple):
    """One scored file: its length in rows, its windows in time order, the rows flagged in it."""

    rows: int
    windows: Sequence[Window]
    flagged: Sequence[int]


PROFILES: Final[dict[str, Profile]] = {
    "standard": Profile(tp=1.0, fn=1.0, fp=0.11),
    "reward_low_FP_rate": Profile(tp=1.0, fn=1.0, fp=0.22),
    "reward_low_FN_rate": Profile(tp=1.0, fn=2.0, fp=0.11),
}


def probation_rows(rows: int) -> int:
    """Return how many first rows of a file of `rows` rows are never scored."""
    return min(int(PROBATION_SHARE * rows), PROBATION_MAX_ROWS)


def flagged_rows(scores: Iterable[float], threshold: float) -> list[int]:
    """Return the rows whose anomaly score reaches `threshold`."""
    return [row for row, score in enumerate(scores) if score >= threshold]


def windows_by_row(times: Sequence[float], spans: Iterable[tuple[float, float]]) -> list[Window]:
    """Turn inclusive time spans into windows over the sorted `times` (both epoch seconds).

    Raises ValueError for a span that holds no row: labels and data do not belong together.
    """
    windows = [Window(bisect_left(times, a), bisect_right(times, b) - 1) for a, b in spans]
    if any(window.width < 1 for window in windows):
        msg = "an anomaly window holds no row of the series"
        raise ValueError(msg)
    return sorted(windows)


def raw_score(series: Series, profile: Profile) -> float:
    """Return the unscaled score of one file: detections less misses and false alarms."""
    start = probation_rows(series.rows)
    rows = sorted(row for row in series.flagged if row >= start)
    detections = [_window_score(window, rows, profile) for window in series.windows]
    alarms = [profile.fp * _position_after(row, series.windows) for row in rows]
    return fsum(detections) + fsum(alarms)


def score(corpus: Iterable[Series], profile: Profile) -> float:
    """Return the score of a corpus: 0 for flagging nothing, 100 for a perfect detector.

    Raises ValueError when no file has a window: the scale is then undefined.
    """
    files = list(corpus)
    count = sum(len(series.windows) for series in files)
    if count == 0:
        msg = "a corpus without an anomaly window has no NAB score"
        raise ValueError(msg)
    null, perfect = -profile.fn * count, profile.tp * count
    raw = fsum(raw_score(series, profile) for series in files)
    return 100.0 * (raw - null) / (perfect - null)


def _sigmoid(position: float) -> float:
    """Return S(y), +0.987 at a window's first row, 0 at its end, towards -1 after it."""
    return 2.0 / (1.0 + exp(5.0 * position)) - 1.0


def _window_score(window: Window, rows: Sequence[int], profile: Profile) -> float:
    """Score one window by its earliest flagged row, the best one since S falls with the row."""
    at = bisect_left(rows, window.first)
    if at == len(rows) or rows[at] > window.last:
        return -profile.fn
    position = -(window.last - rows[at] + 1) / window.width
    return profile.tp * _sigmoid(position) / _sigmoid(-1.0)


def _position_after(row: int, windows: Sequence[Window]) -> float:
    """Return the charge of a flagged row, from 0 (within or just after a window) to -1."""
    before = bisect_right(windows, row, key=lambda window: window.first)
    if before == 0:
        return -1.0
    window = windows[before - 1]
    if row <= window.last:
        return 0.0
    position = (row - window.last) / max(window.width - 1, 1)
    return -1.0 if position > FAR_AFTER_WINDOW else _sigmoid(position)
