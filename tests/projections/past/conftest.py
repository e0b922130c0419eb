"""Small buckets, so that small logs have many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from projections import history

BUCKET = 8


@pytest.fixture(autouse=True, scope="package")
def _small_buckets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "BUCKET", BUCKET)
        yield
