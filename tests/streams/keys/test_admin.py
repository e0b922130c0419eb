"""The administrator's key: made once, or configured; never readable by others."""

from __future__ import annotations

import multiprocessing

import pytest
from pydantic import SecretStr

from schemas.errors import ConfigurationError
from streams.keys import admin_key
from streams.settings import Settings


def test_the_admin_key_is_made_once(settings: Settings) -> None:
    """The first use makes a long key in a file of mode 0600; every later use gives the same."""
    key = admin_key(settings)
    assert len(key) >= 43
    assert admin_key(settings) == key
    path = settings.data / "api-key"
    assert path.read_text().strip() == key
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_processes_make_one_admin_key(settings: Settings) -> None:
    """Processes that start at the same moment agree on one key."""
    with multiprocessing.get_context("fork").Pool(4) as pool:
        keys = pool.map(admin_key, [settings] * 8)
    assert len(set(keys)) == 1
    assert [p.name for p in settings.data.iterdir()] == ["api-key"]


def test_a_configured_admin_key_wins(settings: Settings) -> None:
    """HEADWATER_API_KEY is the key, and no file is made."""
    configured = settings.model_copy(update={"api_key": SecretStr("a-key-of-my-own-0123")})
    assert admin_key(configured) == "a-key-of-my-own-0123"
    assert not (settings.data / "api-key").exists()


@pytest.mark.parametrize("text", ["", "short"])
def test_a_short_admin_key_is_refused(settings: Settings, text: str) -> None:
    """An empty or short key would let anybody in."""
    with pytest.raises(ConfigurationError, match="characters"):
        admin_key(settings.model_copy(update={"api_key": SecretStr(text)}))
    settings.data.mkdir()
    (settings.data / "api-key").write_text(text)
    with pytest.raises(ConfigurationError, match="characters"):
        admin_key(settings)


def test_a_file_readable_by_others_is_closed(settings: Settings) -> None:
    """A key file with a wider mode is narrowed to its owner."""
    admin_key(settings)
    path = settings.data / "api-key"
    path.chmod(0o644)
    admin_key(settings)
    assert path.stat().st_mode & 0o777 == 0o600
