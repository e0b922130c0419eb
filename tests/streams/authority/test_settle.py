"""Schemas get into a registry whole and in order, or not at all."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from schemas import catalog
from schemas.codec import Codec
from schemas.errors import ConfigurationError, DecodeError, SchemaIncompatible
from schemas.events import DeadLetter
from schemas.locks import FIRST
from schemas.registry import Registered, Registry, load
from streams.authority.confluent import SchemaRegistry
from streams.authority.issued import COMMITTED, as_issued, issued_ids
from streams.authority.registering import find
from streams.authority.settle import remember, settle
from streams.codec import codec_of, ids_of
from streams.settings import Settings
from tests.packages import Packages, tickets
from tests.streams.authority.apicurio import Door, count_from

COMMITTED_IDS = load()
SUBJECT = "headwater.MetricReported"
METRIC = COMMITTED_IDS.versions[SUBJECT][0].definition


def post(door: Door, definition: object) -> int:
    """Somebody else registers a schema under our subject."""
    answer = door.http.post(f"/subjects/{SUBJECT}/versions", json={"schema": json.dumps(definition)})
    return int(answer.raise_for_status().json()["id"])


@pytest.fixture
def settings(door: Door, tmp_path: Path) -> Settings:
    """An embedded instance of its own that has its ids from the registry."""
    return Settings(data=tmp_path, registry=door.url)


async def test_an_empty_registry_gets_all_in_order(door: Door, settings: Settings) -> None:
    """Every committed version is registered, in the order of the committed ids; a second time nothing is."""
    ids, added = await settle(settings)
    assert len(added) == len(COMMITTED_IDS.by_id)
    by_id, by_committed_id = (sorted(r.by_id.values(), key=lambda r: r.id) for r in (ids, COMMITTED_IDS))
    assert list(dict.fromkeys(r.subject for r in by_id)) == list(
        dict.fromkeys(r.subject for r in by_committed_id)
    )
    again, nothing = await settle(settings)
    assert nothing == []
    assert again.by_id == ids.by_id == (await ids_of(settings)).by_id


async def test_schemas_of_packages_come_after_ours(
    door: Door, settings: Settings, packages: Packages
) -> None:
    """Each of their versions in its order, under the package's name; the registry's ids are written and read."""
    tickets(packages)
    path = packages.folder / "acme" / "events.py"
    for name in "bcdef":  # so many that their ids, made of them, do not happen to ascend
        path.write_text(path.read_text().replace("    text: str", f'    {name}: str = ""\n    text: str'))
        packages.find_anew()
        packages.lock("acme.events")
    ids, added = await settle(settings)
    assert [line.split(" (")[0] for line in added[len(COMMITTED_IDS.by_id) :]] == [
        *(f"TicketOpened v{n}" for n in range(1, 7)),
        "TicketsPiledUp v1",
    ]
    assert door.http.get("/subjects/acme.TicketOpened/versions").json() == [1, 2, 3, 4, 5, 6]
    await remember(settings, ids)
    event = catalog.event_types()["TicketsPiledUp"].model_validate({"customer": "anna", "tickets": 3})
    codec = await codec_of(settings)
    value = codec.encode(event)
    assert int.from_bytes(value[1:5]) == ids.named("TicketsPiledUp")[0].id < FIRST
    assert codec.decode(value) == event
    packages.remove("acme-tickets")
    assert (await settle(settings))[1] == []
    with pytest.raises(DecodeError, match=r"acme\.TicketsPiledUp, which is not installed here"):
        (await codec_of(settings)).decode(value)


async def test_ids_may_be_large(apicurio: str, door: Door, settings: Settings) -> None:
    """A registry that counts from 100,001 gives such ids."""
    count_from(apicurio, 100_000)
    ids, _ = await settle(settings)
    assert min(ids.by_id) > 100_000


async def test_an_incompatible_subject_changes_nothing(door: Door, settings: Settings) -> None:
    """A subject that somebody took for something else is named; no other subject is registered."""
    post(door, METRIC | {"fields": [{"name": "something", "type": "long"}]})
    with pytest.raises(SchemaIncompatible, match=rf"another {SUBJECT}.*component") as caught:
        await settle(settings)
    assert "another registry" in caught.value.hint
    assert door.http.get("/subjects").json() == [SUBJECT]
    assert door.http.get(f"/subjects/{SUBJECT}/versions").json() == [1]


async def test_the_registrys_rules_are_kept(door: Door, settings: Settings) -> None:
    """Ours would do, but the subject's rule forbids it: named, and no other subject is registered."""
    wider = copy.deepcopy(METRIC)
    wider["fields"].append({"name": "zone", "type": "string"})
    post(door, wider)
    door.http.put(f"/config/{SUBJECT}", json={"compatibility": "FORWARD"}).raise_for_status()
    with pytest.raises(SchemaIncompatible, match=SUBJECT):
        await settle(settings)
    assert door.http.get("/subjects").json() == [SUBJECT]


async def test_others_versions_are_no_hindrance(door: Door, settings: Settings) -> None:
    """An older schema that ours reads and a newer one of a newer producer stay; ours has its own id."""
    older, newer = copy.deepcopy(METRIC), copy.deepcopy(METRIC)
    older["fields"] = [f for f in older["fields"] if "default" not in f]
    newer["fields"].append({"name": "zone", "type": ["null", "string"], "default": None})
    first = post(door, older)
    ids, _ = await settle(settings)
    last = post(door, newer)
    ours = ids.versions[SUBJECT][0].id
    assert first < ours < last
    assert (await settle(settings))[0].by_id == ids.by_id
    assert (await ids_of(settings)).versions[SUBJECT][0].id == ours


async def test_the_registry_says_what_is_the_same_schema(door: Door, settings: Settings) -> None:
    """One that looks past documentation gives two versions that differ in words alone one id: they share it."""
    versions = COMMITTED_IDS.versions["headwater.DeadLetter"]
    assert versions[0].definition != versions[1].definition
    ids, _ = await settle(settings)
    first, second = (r.id for r in ids.versions["headwater.DeadLetter"][:2])
    assert first == second
    letter = DeadLetter(topic="t", partition=0, offset=0, error_type="E")
    codec = Codec(ids)
    assert codec.decode(codec.encode(letter)) == letter
    await remember(settings, ids)
    assert (await settle(settings))[1] == []


async def test_a_log_that_has_ids_is_not_given_others(door: Door, settings: Settings) -> None:
    """Ids were given out, and the registry has not got these schemas: nothing is registered there."""
    await issued_ids(settings).add(as_issued(COMMITTED_IDS, COMMITTED))
    with pytest.raises(ConfigurationError, match=r"given by the committed lock file; .*does not have it"):
        await settle(settings)
    assert door.http.get("/subjects").json() == []


async def test_without_a_registry_ids_are_the_committed_ones(tmp_path: Path) -> None:
    """The same, and remembered; nobody is asked."""
    settings = Settings(data=tmp_path)
    ids, added = await settle(settings)
    await remember(settings, ids)
    assert (ids.by_id, added) == (COMMITTED_IDS.by_id, [])
    assert {i.id for i in await issued_ids(settings).load()} == set(COMMITTED_IDS.by_id)


async def test_one_id_for_two_subjects_is_refused(door: Door) -> None:
    """A registry whose ids tell nothing is refused with both subjects."""
    two = Registry([Registered(n, f"headwater.{e}", 1, METRIC) for n, e in enumerate(("A", "B"))])
    door.status, door.content = 200, b'{"id": 7}'
    with pytest.raises(ConfigurationError, match=r"headwater\.A and headwater\.B the same id 7"):
        async with SchemaRegistry(door.url) as registry:
            await find(registry, two)
