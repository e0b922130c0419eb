"""Quotas of projects: set, listed, removed."""

from __future__ import annotations

import pytest

from schemas.errors import ConfigurationError
from streams.keys import Quota, create, list_keys
from streams.keys.quotas import list_quotas, remove_quota, set_quota
from streams.settings import Settings


def test_a_project_has_one_quota(settings: Settings) -> None:
    """Setting it again replaces it, removing it leaves none; keys in the same file stay."""
    create(settings, "acme", ["read"], "n")
    set_quota(settings, "acme", Quota(5))
    set_quota(settings, "acme", Quota(7, 20, 1000))
    set_quota(settings, "beta", Quota(bytes_per_second=10))
    assert list_quotas(settings) == {"acme": Quota(7, 20, 1000), "beta": Quota(bytes_per_second=10)}
    remove_quota(settings, "acme")
    assert list(list_quotas(settings)) == ["beta"]
    assert len(list_keys(settings)) == 1


@pytest.mark.parametrize(
    ("project", "quota"),
    [("acme", Quota()), ("acme", Quota(0)), ("acme", Quota(-1)), ("acme", Quota(5, 1)), ("a/b", Quota(5))],
)
def test_what_limits_nothing_is_refused(settings: Settings, project: str, quota: Quota) -> None:
    """A quota without a limit, one that makes no sense, or of no project."""
    with pytest.raises(ConfigurationError):
        set_quota(settings, project, quota)
    assert list_quotas(settings) == {}


def test_removing_what_is_not_there(settings: Settings) -> None:
    """It says so: a name was mistyped."""
    with pytest.raises(ConfigurationError, match="no quota"):
        remove_quota(settings, "acme")
