"""A real broker for the tests that need one, started once for the whole run."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.admin import ensure_topics
from streams.broker import Broker
from streams.settings import Settings

DATA = Path(os.environ.get("HEADWATER_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def free_base_port() -> int:
    """A base port whose doors (+0, +92, +93) are free."""
    for base in range(17000 + os.getpid() % 2000 * 10, 60000, 100):
        try:
            for port in (base, base + 92, base + 93):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise RuntimeError("no free ports")


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
