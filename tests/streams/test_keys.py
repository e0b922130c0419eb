"""API keys: made, found, revoked, and never kept in the clear."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from pydantic import SecretStr

from projections.access import ALL_PROJECTS, Caller
from schemas.errors import ConfigurationError
from streams.keys import SCOPES, Keyring, admin_key, create, list_keys, revoke
from streams.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a data folder that does not exist yet."""
    return Settings(data=tmp_path / "data", api_key=None)


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


def test_the_admin_is_recognized(settings: Settings) -> None:
    """The admin key has all scopes in all projects."""
    identity = Keyring(settings).identify(admin_key(settings))
    assert identity is not None
    assert identity.caller == Caller(ALL_PROJECTS, frozenset(SCOPES))


def test_a_project_key(settings: Settings) -> None:
    """A created key is its project's, with its scopes; in the file stands its hash, for its owner only."""
    key = create(settings, "acme", ["produce"], "ingest")
    identity = Keyring(settings).identify(key)
    assert identity is not None
    assert identity.caller == Caller("acme", frozenset({"produce"}))
    assert identity.name == "ingest"
    path = settings.data / "keys.json"
    assert key.rpartition("_")[2] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    (info,) = list_keys(settings)
    assert (info.project, info.scopes, info.name) == ("acme", ("produce",), "ingest")


def test_a_running_keyring_notices_changes(settings: Settings) -> None:
    """Keys made, revoked and replaced after the keyring was made count at once, also the admin's."""
    ring = Keyring(settings)
    first_admin = admin_key(settings)
    assert ring.identify(first_admin)
    key = create(settings, "acme", ["read"], "dashboard")
    assert ring.identify(key)
    revoke(settings, list_keys(settings)[0].id)
    assert ring.identify(key) is None
    (settings.data / "api-key").write_text("another-admin-key-0123456789")
    assert ring.identify(first_admin) is None
    assert ring.identify("another-admin-key-0123456789")


@pytest.mark.parametrize("change", ["", "x", "hw_", "hw_000000000000_" + "a" * 43, "ключ", "\ud800"])
def test_other_keys_are_nobodys(settings: Settings, change: str) -> None:
    """Anything else is nobody's key, whatever bytes it is made of."""
    create(settings, "acme", ["read"], "a")
    assert Keyring(settings).identify(change) is None


def test_a_key_with_another_secret_is_nobodys(settings: Settings) -> None:
    """A known id with a wrong secret is refused."""
    key = create(settings, "acme", ["read"], "a")
    assert Keyring(settings).identify(key[:-1] + ("A" if key[-1] != "A" else "B")) is None


@pytest.mark.parametrize(
    ("project", "scopes", "name", "match"),
    [
        ("acme", [], "n", "scopes none"),
        ("acme", ["everything"], "n", "everything"),
        ("a/b", ["read"], "n", "project"),
        ("*", ["read"], "n", "project"),
        ("acme", ["read"], "", "name"),
        ("acme", ["read"], "taken", "has a key named"),
    ],
)
def test_bad_keys_are_not_made(
    settings: Settings, project: str, scopes: list[str], name: str, match: str
) -> None:
    """A key without scope, with an unknown one, a bad project or a taken name is refused; nothing changes."""
    create(settings, "acme", ["read"], "taken")
    before = list_keys(settings)
    with pytest.raises(ConfigurationError, match=match):
        create(settings, project, scopes, name)
    assert list_keys(settings) == before


def test_revoking_an_unknown_key(settings: Settings) -> None:
    """An id that there is not raises, and says how to see those that there are."""
    with pytest.raises(ConfigurationError, match="keys list"):
        revoke(settings, "abc")


def test_a_damaged_file_is_refused(settings: Settings) -> None:
    """A keys.json that is no JSON raises: no key is forgotten in silence, none is let in."""
    key = create(settings, "acme", ["read"], "a")
    (settings.data / "keys.json").write_text('{"keys": [')
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Keyring(settings).identify(key)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        create(settings, "acme", ["read"], "b")
