"""Keys of projects: made, rotated, limited, revoked; never kept in the clear."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from schemas.errors import ConfigurationError
from schemas.topics import RAW
from streams.keys import Keyring, Quota, create, limit, list_keys, revoke, rotate
from streams.keys.kept import KeyFile, KeyInfo, read
from streams.keys.making import state_of
from streams.settings import Settings


def only(settings: Settings) -> KeyInfo:
    """The one key that there is."""
    (info,) = list_keys(settings)
    return info


def test_a_key_is_kept_as_its_hash(settings: Settings) -> None:
    """In the file stands what a key may do, and its hash; the file is for its owner alone."""
    key = create(settings, "acme", ["produce"], "ingest")
    path = settings.data / "keys.json"
    assert key.split("_", 2)[2] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    info = only(settings)
    assert (info.project, info.scopes, info.name) == ("acme", ("produce",), "ingest")
    assert (info.expires, info.replaced, info.quota) == (None, (), Quota())
    assert key.startswith(f"hw_{info.id}_")


def test_a_file_of_an_earlier_version_is_read(settings: Settings) -> None:
    """Keys that were made before there were expiry and quotas go on working."""
    settings.data.mkdir()
    (settings.data / "keys.json").write_text(
        '{"keys": [{"id": "0123456789ab", "name": "n", "project": "acme", "scopes": ["read"],'
        ' "created": 1.0, "sha256": "00"}]}'
    )
    assert only(settings) == KeyInfo("0123456789ab", "n", "acme", ("read",), 1.0, "00")


@pytest.mark.parametrize("topic", [topic.name for topic in RAW])
def test_a_key_for_one_raw_topic(settings: Settings, topic: str) -> None:
    """Every raw topic can be named in a scope of its own."""
    create(settings, "acme", [f"produce:{topic}", "read"], "n")
    assert set(only(settings).scopes) == {f"produce:{topic}", "read"}


@pytest.mark.parametrize(
    ("project", "scopes", "name", "match"),
    [
        ("acme", [], "n", "scopes none"),
        ("acme", ["everything"], "n", "everything"),
        ("acme", ["query"], "n", "read"),
        ("acme", ["produce:signals"], "n", "produce:signals: no such raw topic"),
        ("acme", ["produce:agent.nothing"], "n", "no such raw topic"),
        ("acme", ["produce:"], "n", "no such raw topic"),
        ("acme", ["produce", "produce:agent.metrics"], "n", "narrows nothing"),
        ("a/b", ["read"], "n", "project"),
        ("*", ["read"], "n", "project"),
        ("acme", ["read"], "", "name"),
        ("acme", ["read"], "taken", "has a key named"),
    ],
)
def test_bad_keys_are_not_made(
    settings: Settings, project: str, scopes: list[str], name: str, match: str
) -> None:
    """A key without scope, with one that makes no sense, a bad project or a taken name; nothing changes."""
    create(settings, "acme", ["read"], "taken")
    before = list_keys(settings)
    with pytest.raises(ConfigurationError, match=match):
        create(settings, project, scopes, name)
    assert list_keys(settings) == before


@pytest.mark.parametrize(
    "quota",
    [
        Quota(-1),
        Quota(float("nan")),
        Quota(float("inf")),
        Quota(10, 9),
        Quota(0.1, 0.5),
        Quota(None, 100),
        Quota(0, 100),
        Quota(bytes_per_second=-1),
    ],
)
def test_quotas_that_make_no_sense(settings: Settings, quota: Quota) -> None:
    """Below nothing, without end, or a burst of less than a second: refused, at making and later."""
    with pytest.raises(ConfigurationError):
        create(settings, "acme", ["produce"], "n", quota=quota)
    assert list_keys(settings) == []
    create(settings, "acme", ["produce"], "n")
    with pytest.raises(ConfigurationError):
        limit(settings, only(settings).id, quota)
    assert only(settings).quota == Quota()


def test_a_key_gets_another_quota(settings: Settings) -> None:
    """What it may send changes, all else stays."""
    create(settings, "acme", ["produce"], "n", quota=Quota(5, 20, 1000))
    before = only(settings)
    assert before.quota == Quota(5, 20, 1000)
    after = limit(settings, before.id, Quota(7))
    assert only(settings) == after
    assert after.quota == Quota(7)
    assert (after.sha256, after.id, after.scopes) == (before.sha256, before.id, before.scopes)


def test_a_key_that_has_expired_is_not_made(settings: Settings) -> None:
    """An end in the past is refused."""
    with pytest.raises(ConfigurationError, match="expired at"):
        create(settings, "acme", ["read"], "n", expires=time.time() - 1)


def test_rotation_keeps_the_key_and_changes_the_secret(settings: Settings) -> None:
    """Id, name, project, scopes, quota and expiry stay; what is kept is the new secret's hash."""
    expires = time.time() + 1000
    first = create(settings, "acme", ["read"], "n", expires=expires, quota=Quota(5))
    before = only(settings)
    second, after = rotate(settings, before.id, 60)
    assert second != first
    assert second.startswith(f"hw_{before.id}_")
    assert only(settings) == after
    same = ("id", "name", "project", "scopes", "created", "expires", "quota")
    assert [getattr(after, f) for f in same] == [getattr(before, f) for f in same]
    assert [r.sha256 for r in after.replaced] == [before.sha256]
    text = (settings.data / "keys.json").read_text()
    assert first.split("_", 2)[2] not in text
    assert second.split("_", 2)[2] not in text


def test_an_overlap_never_lengthens_what_was_given(settings: Settings) -> None:
    """An old secret ends with the overlap, its own earlier end, or the key's, whichever comes first."""
    now = time.time()
    create(settings, "acme", ["read"], "n", expires=now + 100)
    id_ = only(settings).id
    rotate(settings, id_, 50)
    _, second = rotate(settings, id_, 1000, expires=now + 5000)
    newest, oldest = second.replaced
    assert newest.until == pytest.approx(now + 100, abs=1), "not beyond the expiry that it was given with"
    assert oldest.until == pytest.approx(now + 50, abs=5)
    assert second.expires == now + 5000
    _, third = rotate(settings, id_, 0)
    assert all(r.until <= time.time() for r in third.replaced), "overlap 0 ends all of them"


def test_an_expired_key_is_rotated_with_a_new_end_only(settings: Settings) -> None:
    """A new secret of an expired key would open nothing, so it needs an expiry of its own."""
    create(settings, "acme", ["read"], "n", expires=time.time() + 0.05)
    id_ = only(settings).id
    time.sleep(0.06)
    with pytest.raises(ConfigurationError, match="expired at"):
        rotate(settings, id_)
    key, info = rotate(settings, id_, expires=time.time() + 100)
    assert Keyring(settings).identify(key)
    assert info.replaced[0].until < time.time(), "the old secret does not come to life again"


@pytest.mark.parametrize("overlap_s", [-1.0])
def test_an_overlap_below_nothing(settings: Settings, overlap_s: float) -> None:
    """It is refused, and the secret stays."""
    key = create(settings, "acme", ["read"], "n")
    with pytest.raises(ConfigurationError, match="overlap"):
        rotate(settings, only(settings).id, overlap_s)
    assert Keyring(settings).identify(key)


def test_states(settings: Settings) -> None:
    """Active, soon to expire, expired; rotating while an old secret works."""
    now = time.time()
    create(settings, "acme", ["read"], "n", expires=now + 30 * 86_400)
    key = only(settings)
    assert state_of(key, now).name == "active"
    assert state_of(key, now + 24 * 86_400).name == "expires soon"
    assert state_of(key, now + 30 * 86_400 + 1).name == "expired"
    _, key = rotate(settings, key.id, 60)
    state = state_of(key, now)
    assert state.name == "rotating"
    assert state.until == key.replaced[0].until
    assert state_of(key, now + 120).name == "active"


@pytest.mark.parametrize("change", [revoke, rotate, lambda s, i: limit(s, i, Quota(1))])
def test_an_unknown_key_cannot_be_changed(settings: Settings, change: object) -> None:
    """An id that there is not raises, and says how to see those that there are."""
    assert callable(change)
    with pytest.raises(ConfigurationError, match="keys list"):
        change(settings, "abc")


def _make(given: tuple[Settings, int]) -> None:
    create(given[0], "acme", ["read"], f"n{given[1]}")


def test_processes_that_change_the_file_at_once(settings: Settings) -> None:
    """Keys made by several processes at the same moment are all there, and no half file is left."""
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(_make, [(settings, number) for number in range(20)])
    assert {k.name for k in list_keys(settings)} == {f"n{number}" for number in range(20)}
    assert {p.name for p in settings.data.iterdir()} == {"keys.json", "keys.lock"}


def test_a_damaged_file_is_refused(settings: Settings) -> None:
    """A keys.json that is no JSON raises: no key is forgotten in silence, none is let in."""
    key = create(settings, "acme", ["read"], "a")
    (settings.data / "keys.json").write_text('{"keys": [')
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Keyring(settings).identify(key)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        create(settings, "acme", ["read"], "b")


def test_an_absent_file_is_an_empty_one(settings: Settings) -> None:
    """Before the first key there is nothing, and nothing is made by looking."""
    assert read(settings) == KeyFile()
    assert not settings.data.exists()
