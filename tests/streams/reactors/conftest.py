"""Reactors on the shared broker, each test in a namespace of its own."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from streams.settings import Settings


@pytest.fixture
def settings(broker: Settings, tmp_path: Path) -> Settings:
    """Four partitions, loopback allowed to webhooks."""
    return Settings(
        data=tmp_path,
        port=broker.port,
        kafka=broker.bootstrap,
        namespace=f"r{uuid.uuid4().hex[:8]}",
        partitions=4,
        webhook_networks="127.0.0.0/8",
    )
