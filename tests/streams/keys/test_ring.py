"""A running gateway's keys: whose one is, why one is nobody's, and that changes count at once."""

from __future__ import annotations

import time

import pytest

from projections.access import ALL_PROJECTS, Caller
from streams.keys import ADMIN_ID, SCOPES, Keyring, Quota, admin_key, create, list_keys, revoke, rotate
from streams.keys.quotas import set_quota
from streams.settings import Settings


def test_the_admin_is_recognized(settings: Settings) -> None:
    """The admin key has all scopes in all projects."""
    identity = Keyring(settings).identify(admin_key(settings))
    assert identity is not None
    assert identity.caller == Caller(ALL_PROJECTS, frozenset(SCOPES), ADMIN_ID)


def test_a_project_key(settings: Settings) -> None:
    """A created key is its project's, with its scopes, and is called by its id and name."""
    key = create(settings, "acme", ["produce:agent.metrics"], "ingest")
    identity = Keyring(settings).identify(key)
    assert identity is not None
    id_ = list_keys(settings)[0].id
    assert identity.caller == Caller("acme", frozenset({"produce:agent.metrics"}), id_)
    assert identity.name == "ingest"


def test_a_running_keyring_notices_changes(settings: Settings) -> None:
    """Keys made, revoked and replaced after the keyring was made count at once, also the admin's."""
    ring = Keyring(settings)
    first_admin = admin_key(settings)
    assert ring.identify(first_admin)
    key = create(settings, "acme", ["read"], "dashboard")
    assert ring.identify(key)
    revoke(settings, list_keys(settings)[0].id)
    assert ring.identify(key) is None
    assert ring.refusal(key).reason == "unknown"
    (settings.data / "api-key").write_text("another-admin-key-0123456789")
    assert ring.identify(first_admin) is None
    assert ring.identify("another-admin-key-0123456789")


@pytest.mark.parametrize("change", ["", "x", "hw_", "hw_000000000000_" + "a" * 43, "ключ", "\ud800"])
def test_other_keys_are_nobodys(settings: Settings, change: str) -> None:
    """Anything else is nobody's key, whatever bytes it is made of, and claims no id."""
    create(settings, "acme", ["read"], "a")
    ring = Keyring(settings)
    assert ring.identify(change) is None
    assert (ring.refusal(change).reason, ring.refusal(change).key_id) == ("unknown", None)


def test_a_key_with_another_secret_is_nobodys(settings: Settings) -> None:
    """A known id with a wrong secret is as unknown as any, but for the log: it claims that id."""
    key = create(settings, "acme", ["read"], "a", expires=time.time() + 100)
    ring = Keyring(settings, lambda: time.time() + 1000)
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert ring.identify(wrong) is None
    refusal = ring.refusal(wrong)
    assert (refusal.reason, refusal.key_id) == ("unknown", list_keys(settings)[0].id)
    assert refusal.sentence == ring.refusal("x").sentence, "who guesses learns nothing, not even the expiry"


def test_a_key_expires(settings: Settings) -> None:
    """It works until its time, and then says since when it does not; no file has to change for it."""
    now = time.time()
    key = create(settings, "acme", ["read"], "a", expires=now + 100)
    moment = [now]
    ring = Keyring(settings, lambda: moment[0])
    assert ring.identify(key)
    moment[0] = now + 100
    assert ring.identify(key) is None
    refusal = ring.refusal(key)
    assert refusal.reason == "expired"
    assert "expired at 2" in refusal.sentence


def test_both_secrets_work_while_a_key_rotates(settings: Settings) -> None:
    """Until the overlap ends old and new are the same key; then the old one says that it was replaced."""
    now = time.time()
    moment = [now]
    old = create(settings, "acme", ["read"], "a")
    ring = Keyring(settings, lambda: moment[0])
    assert ring.identify(old)
    new, _ = rotate(settings, list_keys(settings)[0].id, 60)
    assert ring.identify(old) == ring.identify(new)
    moment[0] = now + 70
    assert ring.identify(new)
    assert ring.identify(old) is None
    refusal = ring.refusal(old)
    assert refusal.reason == "replaced"
    assert "expired at 2" in refusal.sentence


def test_a_rotation_without_overlap(settings: Settings) -> None:
    """The old secret ends at once, in a keyring that knew it."""
    old = create(settings, "acme", ["read"], "a")
    ring = Keyring(settings)
    assert ring.identify(old)
    new, _ = rotate(settings, list_keys(settings)[0].id, 0)
    assert ring.identify(old) is None
    assert ring.identify(new)


def test_quotas_of_a_caller(settings: Settings) -> None:
    """The key's own, its project's, and how many keys share it; a change counts at the next question."""
    ring = Keyring(settings)
    key = create(settings, "acme", ["read"], "a", quota=Quota(5))
    create(settings, "acme", ["read"], "b")
    create(settings, "other", ["read"], "b")
    identity = ring.identify(key)
    assert identity is not None
    assert ring.quotas(identity.caller) == (Quota(5), Quota(), 2)
    set_quota(settings, "acme", Quota(7))
    ring.identify(key)
    assert ring.quotas(identity.caller) == (Quota(5), Quota(7), 2)
