"""A data folder of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a data folder that does not exist yet."""
    return Settings(data=tmp_path / "data", api_key=None)
