"""NAB's scoring rule: fixed points of the rule, and published scores it must give."""

from __future__ import annotations

import csv
import json
from calendar import timegm
from collections.abc import Sequence
from itertools import accumulate
from math import erfc, sqrt
from pathlib import Path
from time import strptime

import pytest

from processors.nab import (
    PROFILES,
    Profile,
    Series,
    Window,
    flagged_rows,
    probation_rows,
    raw_score,
    score,
    windows_by_row,
)

STANDARD = PROFILES["standard"]
WINDOWS = [Window(300, 399), Window(600, 699)]


def epoch(text: str) -> float:
    """Epoch seconds of a NAB timestamp, read as UTC."""
    return float(timegm(strptime(text[:19], "%Y-%m-%d %H:%M:%S")))


def corpus(folder: Path) -> dict[str, tuple[list[float], list[float], list[Window]]]:
    """Times, values and windows of every labelled file under the NAB folder, else skip."""
    nab = folder / "nab"
    if not nab.is_dir():
        pytest.skip(f"no NAB files at {nab}: set HEADWATER_TEST_DATA")
    labels = json.loads((nab / "labels" / "combined_windows.json").read_text())
    files = {}
    for name, spans in labels.items():
        with (nab / "data" / name).open(newline="") as file:
            rows = list(csv.reader(file))[1:]
        times = [epoch(row[0]) for row in rows]
        windows = windows_by_row(times, [(epoch(a), epoch(b)) for a, b in spans])
        files[name] = (times, [float(row[1]) for row in rows], windows)
    return files


def windowed_gaussian(values: Sequence[float], width: int = 6400, step: int = 100) -> list[float]:
    """Two-sided Gaussian score of each value against a window that slides by `step` rows."""
    middle = sum(values) / len(values)
    centred = [value - middle for value in values]
    sums = list(accumulate(centred, initial=0.0))
    squares = list(accumulate((value * value for value in centred), initial=0.0))
    scores = [0.0]
    for row in range(1, len(values)):
        first = max(0, (row - width) // step * step)
        last = row if row <= width else first + width
        count = last - first
        mean = (sums[last] - sums[first]) / count
        spread = sqrt(max((squares[last] - squares[first]) / count - mean * mean, 0.0)) or 1e-6
        scores.append(1.0 - 0.5 * erfc(abs(centred[row] - mean) / spread / 1.4142))
    return scores


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_null_is_zero_and_perfect_is_hundred(profile: Profile) -> None:
    """Flagging nothing scores 0; the first row of every window and nothing else scores 100."""
    assert score([Series(1000, WINDOWS, [])], profile) == 0.0
    assert score([Series(1000, WINDOWS, [300, 600])], profile) == pytest.approx(100.0)


def test_a_window_counts_by_its_earliest_row() -> None:
    """More flagged rows in a window change nothing, and an earlier one scores more."""
    late = raw_score(Series(1000, WINDOWS, [350]), STANDARD)
    both = raw_score(Series(1000, WINDOWS, [320, 350]), STANDARD)
    assert raw_score(Series(1000, WINDOWS, [320]), STANDARD) == both > late


def test_a_false_alarm_costs_more_the_further_after_a_window() -> None:
    """Just after a window an alarm costs little; before any window, or far after, all of fp."""

    def cost(row: int) -> float:
        windows = [Window(500, 599)]
        alone = raw_score(Series(2000, windows, []), STANDARD)
        return alone - raw_score(Series(2000, windows, [row]), STANDARD)

    assert 0.0 < cost(600) < 0.01 < cost(650) < cost(800) < STANDARD.fp
    assert cost(499) == cost(1999) == pytest.approx(STANDARD.fp)


def test_the_learning_period_is_never_scored() -> None:
    """Rows of the first 15 %, at most 750, cost and earn nothing."""
    assert (probation_rows(1000), probation_rows(4032), probation_rows(9000)) == (150, 604, 750)
    quiet = raw_score(Series(1000, WINDOWS, []), STANDARD)
    assert raw_score(Series(1000, WINDOWS, [0, 149]), STANDARD) == quiet
    assert raw_score(Series(1000, WINDOWS, [150]), STANDARD) == pytest.approx(quiet - 0.11)


def test_a_window_within_the_learning_period_is_missed() -> None:
    """A flagged row in the learning period does not detect the window that holds it."""
    assert raw_score(Series(1000, [Window(100, 120)], [110]), STANDARD) == -1.0


def test_a_threshold_is_reached_by_an_equal_score() -> None:
    """A score equal to the threshold is flagged."""
    assert flagged_rows([0.4, 0.5, 0.6], 0.5) == [1, 2]


def test_windows_take_every_row_of_a_repeated_time() -> None:
    """A span's ends are inclusive, and rows that share a time are all in or all out."""
    assert windows_by_row([1.0, 2.0, 2.0, 3.0, 4.0], [(2.0, 3.0)]) == [Window(1, 3)]


def test_labels_of_other_data_are_refused() -> None:
    """A span without a row, and a corpus without a window, raise ValueError."""
    with pytest.raises(ValueError, match="holds no row"):
        windows_by_row([1.0, 2.0], [(5.0, 6.0)])
    with pytest.raises(ValueError, match="without an anomaly window"):
        score([Series(100, [], [50])], STANDARD)


def test_windowed_gaussian_scores_as_published(data_set: Path) -> None:
    """A windowed Gaussian gets, in all three profiles, the score derived from upstream's files."""
    files = corpus(data_set)
    # Upstream keeps 12 digits of a score, so its threshold of 1.0 is reached from here on.
    threshold = 1.0 - 5e-13
    scored = [
        Series(len(values), windows, flagged_rows(windowed_gaussian(values), threshold))
        for _, values, windows in files.values()
    ]
    published = json.loads((data_set / "nab" / "results" / "subset_scores.json").read_text())
    for name, expected in published["detectors"]["windowedGaussian"].items():
        assert score(scored, PROFILES[name]) == pytest.approx(expected["score"], abs=1e-3)
