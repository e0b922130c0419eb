"""A real registry, started once for the whole run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.settings import Settings
from tests.conftest import skip_or_fail
from tests.streams.authority.apicurio import Door, Unavailable, count_from, running, unpacked


@pytest.fixture(scope="session")
def apicurio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running Apicurio."""
    try:
        unpacked()
    except Unavailable as error:
        skip_or_fail(str(error))
    with running(tmp_path_factory.mktemp("apicurio") / "apicurio.log") as url:
        count_from(url, 1_000)  # none of its ids is a committed one
        yield url


@pytest.fixture
def door(apicurio: str) -> Iterator[Door]:
    """An empty registry."""
    one = Door(apicurio)
    one.start()
    yield one
    one.shut()


@pytest.fixture
def settings(broker: Settings, tmp_path: Path) -> Settings:
    """On the shared broker, with a data folder of its own."""
    return broker.model_copy(update={"data": tmp_path, "kafka": broker.bootstrap})
