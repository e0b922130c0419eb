"""A real broker and a real PostgreSQL for the tests that need them, started once for the whole run."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from streams.admin import ensure_topics
from streams.broker import Broker
from streams.settings import Settings
from tests.packages import packages
from tests.postgres import Cluster, installed

__all__ = ["packages"]

# Each broker compiles what it runs; the second compiler pays off after minutes, which tests do not take.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")

COMPLETE = "HEADWATER_TEST_COMPLETE"
NewDatabase = Callable[[], str]
"""Gives the URL of another empty database for views at each call."""
DATA = Path(os.environ.get("HEADWATER_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def free_base_port() -> int:
    """A base port whose doors (+0, +92, +93) are free; no other test process of this run is given the same.

    Below 32768, from where Linux takes ports for connections: one of those would be in use now and then.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
    first = os.getpid() % 200
    for hundred in range(200):
        base = 12000 + (first + hundred) % 200 * 100 + process * 10
        try:
            for port in (base, base + 92, base + 93):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise RuntimeError("no free ports")


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test for want of something; with HEADWATER_TEST_COMPLETE=1, where nothing may be skipped, fail."""
    if os.environ.get(COMPLETE) == "1":
        pytest.fail(f"{COMPLETE} is set, and {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server for all tests, each of which takes a schema of its own."""
    with _cluster() as cluster:
        yield cluster


@pytest.fixture
def own_postgres() -> Iterator[Cluster]:
    """A PostgreSQL server that a test may kill."""
    with _cluster() as cluster:
        yield cluster


@contextmanager
def _cluster() -> Iterator[Cluster]:
    programs = installed()
    if programs is None:
        skip_or_fail("no PostgreSQL is installed: apt-get install postgresql")
    cluster = Cluster(programs)
    try:
        cluster.make()
        yield cluster
    finally:
        cluster.remove()


def database_factory(request: pytest.FixtureRequest, folder: Path) -> NewDatabase:
    """Makes databases of the kind that `request.param` names."""
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres")
        return cluster.new_schema
    numbers = itertools.count(1)
    return lambda: f"sqlite:///{folder / f'views-{next(numbers)}.sqlite'}"


BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(params=BACKENDS)
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """Every test that takes it runs on SQLite and on PostgreSQL."""
    return database_factory(request, tmp_path)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a running embedded broker with every declared topic."""
    settings = Settings(data=tmp_path_factory.mktemp("broker"), port=free_base_port())
    process = Broker(settings)
    asyncio.run(process.start())
    asyncio.run(ensure_topics(settings))
    yield settings
    asyncio.run(process.stop())


@pytest.fixture
def data_set() -> Path:
    """The folder of recorded data sets; tests that need one skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no data sets at {DATA}: set HEADWATER_TEST_DATA")
    return DATA
