"""The last use of each key: noted for nothing, written now and then, never lost to another gateway."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from streams.keys import create, list_keys, revoke
from streams.keys import uses as uses_module
from streams.keys.uses import Uses, last_uses
from streams.settings import Settings


def made(settings: Settings, name: str) -> str:
    """The id of a new key."""
    create(settings, "acme", ["read"], name)
    return next(k.id for k in list_keys(settings) if k.name == name)


def test_uses_are_written_when_flushed(settings: Settings) -> None:
    """Noting writes nothing; a flush writes the last use with its time and door, and again only what is new."""
    id_ = made(settings, "a")
    uses = Uses(settings)
    before = time.time()
    uses.note(id_, "POST /v1/events")
    uses.note(id_, "GET /v1/runs")
    path = settings.data / "key-uses.json"
    assert not path.exists()
    uses.flush()
    use = last_uses(settings)[id_]
    assert use.door == "GET /v1/runs"
    assert before <= use.at <= time.time()
    written = path.stat().st_mtime_ns
    uses.flush()
    assert path.stat().st_mtime_ns == written


def test_two_gateways_of_one_folder(settings: Settings) -> None:
    """Each adds what it saw; of one key the later use stays, whoever writes last."""
    first, second = made(settings, "a"), made(settings, "b")
    one, other = Uses(settings), Uses(settings)
    one.note(first, "GET /v1/runs")
    other.note(second, "GET /v1/agents")
    other.note(first, "POST /v1/events")
    other.flush()
    one.flush()
    found = last_uses(settings)
    assert (found[first].door, found[second].door) == ("POST /v1/events", "GET /v1/agents")


def test_revoked_keys_are_forgotten(settings: Settings) -> None:
    """The file does not grow with keys that are gone, nor with the administrator's."""
    id_, other = made(settings, "a"), made(settings, "b")
    uses = Uses(settings)
    for key in (id_, other, "admin"):
        uses.note(key, "GET /v1/runs")
    revoke(settings, id_)
    uses.flush()
    assert list(last_uses(settings)) == [other]


def test_a_damaged_file_costs_what_it_said(settings: Settings) -> None:
    """It is no key's right: what is new is written in its place."""
    id_ = made(settings, "a")
    (settings.data / "key-uses.json").write_text("{")
    assert last_uses(settings) == {}
    uses = Uses(settings)
    uses.note(id_, "GET /v1/runs")
    uses.flush()
    assert list(last_uses(settings)) == [id_]


def test_what_cannot_be_written_stays_to_be_written(settings: Settings) -> None:
    """A failed flush raises nothing, and the next one has it all."""
    id_ = made(settings, "a")
    uses = Uses(settings)
    uses.note(id_, "GET /v1/runs")
    (settings.data / "key-uses.lock").mkdir()
    uses.flush()
    assert last_uses(settings) == {}
    (settings.data / "key-uses.lock").rmdir()
    uses.flush()
    assert list(last_uses(settings)) == [id_]


def test_noting_while_it_is_written(settings: Settings) -> None:
    """Uses noted during a flush, from another thread, are in a later one."""
    ids = [made(settings, f"n{i}") for i in range(20)]
    uses = Uses(settings)
    stop = threading.Event()

    def note() -> None:
        while not stop.is_set():
            for id_ in ids:
                uses.note(id_, "GET /v1/runs")

    thread = threading.Thread(target=note)
    thread.start()
    for _ in range(20):
        uses.flush()
    stop.set()
    thread.join()
    uses.flush()
    assert set(last_uses(settings)) == set(ids)


async def test_they_are_kept_while_a_gateway_runs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keep` flushes again and again."""
    monkeypatch.setattr(uses_module, "FLUSH_S", 0.01)
    id_ = made(settings, "a")
    uses = Uses(settings)
    keeping = asyncio.create_task(uses.keep())
    for door in ("GET /v1/runs", "GET /v1/agents"):
        uses.note(id_, door)
        for _ in range(1_000):
            await asyncio.sleep(0.01)
            use = last_uses(settings).get(id_)
            if use is not None and use.door == door:
                break
        else:
            pytest.fail(f"{door} was not written")
    keeping.cancel()
