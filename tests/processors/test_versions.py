"""Several versions of a fold may be installed, if they can stand for one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from processors.anomaly import Anomaly
from processors.catalog import folds
from processors.fold import Fold
from processors.versions import by_name, can_migrate
from schemas import topics
from schemas.errors import ConfigurationError


class Newer(Anomaly):
    version = 3
    migrates = (1,)


class Elsewhere(Anomaly):
    version = 2
    topics = (topics.SIGNALS, topics.ANOMALIES)  # type: ignore[assignment]  # one more


class Stateless(Anomaly):
    version = 4
    state = None  # type: ignore[assignment]  # a successor may do without


def test_the_catalog_has_every_version_by_number() -> None:
    """Versions come in ascending order under their fold's name, whatever order they are found in."""
    found = by_name([Newer(), *folds()])
    assert list(found["anomaly"]) == [1, 3]
    assert type(found["anomaly"][3]) is Newer
    assert {"intake", "addressing", "anomaly"} <= found.keys()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Anomaly, "version 1 is installed twice: processors.anomaly.Anomaly and processors.anomaly.Anomaly"),
        (Elsewhere, "version 1 reads signals, version 2 reads anomalies, signals"),
    ],
)
def test_versions_that_do_not_fit_are_refused(made: Callable[[], Fold[Any]], says: str) -> None:
    """The same number twice, or other topics: said with name and place, before anything runs."""
    with pytest.raises(ConfigurationError, match=says):
        by_name([Anomaly(), made()])


def test_a_state_is_migrated_only_where_that_is_declared() -> None:
    """A version takes over the state of those that it names, and only where both keep one."""
    assert can_migrate(Newer(), Anomaly())
    assert not can_migrate(Anomaly(), Newer())
    assert not can_migrate(Newer(), Stateless())


def test_a_fold_that_declares_nothing_cannot_migrate() -> None:
    """Who calls `migrate` all the same is told which fold it is."""
    with pytest.raises(NotImplementedError, match=r"anomaly\.migrate"):
        Anomaly().migrate(None, 1)
