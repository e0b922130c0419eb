"""Schemas of packages: locked beside their code, with ids that are the same wherever they are installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas import catalog, locks
from schemas.codec import Codec
from schemas.errors import ConfigurationError, DecodeError, InvalidEvent, SchemaIncompatible
from tests.packages import EVENTS, POINTS, Packages, tickets


def lock_file(packages: Packages) -> Path:
    """That of `acme.events`."""
    return packages.folder / "acme" / "events.lock.json"


def change(packages: Packages, old: str, new: str) -> None:
    """Another release of the package."""
    path = packages.folder / "acme" / "events.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    packages.find_anew()


def test_ids_are_made_of_the_schema(packages: Packages) -> None:
    """Another machine, with other packages in another order, gives the same ids; another schema, another id."""
    packages.install("acme", POINTS, {"acme.events": EVENTS + "TOPICS = (TICKETS, PILES)\n"})
    packages.write("another.events", EVENTS.replace("acme.", "another."))
    first = packages.lock("acme.events")
    lock_file(packages).unlink()
    packages.lock("another.events")
    assert packages.lock("acme.events") == first
    ids = [r.id for r in locks.registry().by_id.values() if r.package]
    assert first == [f"TicketOpened v1 (id {ids[0]})", f"TicketsPiledUp v1 (id {ids[1]})"]
    assert ids == [1247858283, 1569032886], "records in logs have them: this must never change"
    there = json.loads((packages.folder / "another" / "events.lock.json").read_text())
    assert len({*ids, *(v["id"] for versions in there.values() for v in versions)}) == 4
    assert all(locks.FIRST <= i < 2**31 for i in ids)


def test_our_own_ids_are_far_below(packages: Packages) -> None:
    """No schema of ours can come to have an id of a package's."""
    tickets(packages)
    assert max(i for i, r in locks.registry().by_id.items() if r.package is None) < 10_000


def test_a_packages_events_are_written_and_read(packages: Packages) -> None:
    """By name, with the locked id in front, as ours are."""
    tickets(packages)
    event = catalog.event_types()["TicketsPiledUp"].model_validate({"customer": "anna", "tickets": 3})
    codec = Codec()
    value = codec.encode(event)
    (registered,) = codec.registry.named("TicketsPiledUp")
    assert int.from_bytes(value[1:5]) == registered.id
    assert (registered.subject, registered.package) == ("acme.TicketsPiledUp", "acme-tickets 1.0")
    assert codec.decode(value) == event
    assert codec.registry.named("acme.TicketsPiledUp") == [registered]


def test_a_new_field_is_a_new_version_that_reads_the_old(packages: Packages) -> None:
    """Records of the first version are read with the field's default; the lock keeps both, in order."""
    tickets(packages)
    opened = catalog.event_types()["TicketOpened"]
    old = Codec().encode(opened.model_validate({"customer": "anna", "text": "help"}))
    change(packages, '    text: str = ""\n', '    text: str = ""\n    urgent: bool = False\n')
    (fault,) = locks.survey().faults
    assert "TicketOpened differs from its newest locked schema" in fault.says
    assert "headwater schemas lock acme.events" in fault.do
    (locked,) = packages.lock("acme.events")
    assert locked.startswith("TicketOpened v2 (id ")
    assert locks.survey().faults == ()
    read = Codec().decode(old)
    assert read.model_dump() == {"customer": "anna", "text": "help", "urgent": False}
    assert [r.version for r in locks.registry().named("TicketOpened")] == [1, 2]
    assert packages.lock("acme.events") == []
    locks.check()


def test_a_change_may_be_taken_back(packages: Packages) -> None:
    """The third version is the first again, with its id; records of all three are read."""
    tickets(packages)

    def written(**fields: object) -> bytes:
        return Codec().encode(catalog.event_types()["TicketOpened"].model_validate(fields))

    first = written(customer="anna")
    change(packages, '    text: str = ""\n', '    text: str = ""\n    urgent: bool = False\n')
    packages.lock("acme.events")
    second = written(customer="ben", urgent=True)
    change(packages, "    urgent: bool = False\n", "")
    packages.lock("acme.events")
    assert locks.survey().faults == ()
    locks.check()
    assert written(customer="anna") == first
    codec = Codec()
    assert [codec.decode(value).model_dump() for value in (first, second)] == [
        {"customer": "anna", "text": ""},
        {"customer": "ben", "text": ""},
    ]


def test_words_may_change_without_locking(packages: Packages) -> None:
    """Documentation alone is no reason to refuse a package; whoever locks it gets a version with the new words."""
    tickets(packages)
    change(packages, "A customer wants something.", "A customer wants something else.")
    assert locks.survey().faults == ()
    (locked,) = packages.lock("acme.events")
    assert locked.startswith("TicketOpened v2 (id ")


def test_an_incompatible_change_is_not_locked(packages: Packages) -> None:
    """What could not read earlier records is refused, and the file is left as it is."""
    tickets(packages)
    before = lock_file(packages).read_text()
    change(packages, "    tickets: int\n", "    tickets: int\n    since: str\n")
    with pytest.raises(SchemaIncompatible, match=r"TicketsPiledUp cannot read its version 1: .*since"):
        packages.lock("acme.events")
    assert lock_file(packages).read_text() == before


def test_an_incompatible_lock_is_found(packages: Packages) -> None:
    """A lock file that was begun anew and put together again by hand is found by the check."""
    tickets(packages)
    first = json.loads(lock_file(packages).read_text())
    change(packages, "    tickets: int\n", "    tickets: int\n    since: str\n")
    lock_file(packages).unlink()
    packages.lock("acme.events")
    second = json.loads(lock_file(packages).read_text())
    second["TicketsPiledUp"] = first["TicketsPiledUp"] + second["TicketsPiledUp"]
    lock_file(packages).write_text(json.dumps(second))
    packages.find_anew()
    with pytest.raises(SchemaIncompatible, match="TicketsPiledUp cannot read its version 1"):
        locks.check()


def test_without_a_lock_nothing_is_written(packages: Packages) -> None:
    """An event type that was never locked is known, and cannot be encoded; the fault says how to lock it."""
    tickets(packages, lock=False)
    (fault,) = locks.survey().faults
    assert "the schema of TicketOpened is not locked" in fault.says
    assert fault.do.startswith("run `headwater schemas lock acme.events`")
    opened = catalog.event_types()["TicketOpened"]
    with pytest.raises(InvalidEvent, match=r"TicketOpened has no schema .*headwater doctor"):
        Codec().encode(opened.model_validate({"customer": "anna"}))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"TicketOpened": [{"id": "x", "schema": {"fields": []}}]}',
        '{"TicketOpened": [{"id": 5}]}',
    ],
)
def test_what_is_no_lock_file(packages: Packages, text: str) -> None:
    """It is a fault of its package, with what to do."""
    tickets(packages)
    lock_file(packages).write_text(text)
    packages.find_anew()
    (fault,) = locks.survey().faults
    assert "is no lock file" in fault.says
    assert fault.do == "restore it from the package's history"


def test_a_changed_lock_is_found(packages: Packages) -> None:
    """An id is made of the schema, so nobody can put another schema behind it."""
    tickets(packages)
    lock = json.loads(lock_file(packages).read_text())
    lock["TicketOpened"][0]["id"] += 1
    lock_file(packages).write_text(json.dumps(lock))
    packages.find_anew()
    (fault,) = locks.survey().faults
    assert "TicketOpened version 1 is another schema than its id" in fault.says


def test_two_schemas_with_one_id_by_chance(packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never seen, but said: the second is refused, with a way out."""
    monkeypatch.setattr(locks, "schema_id", lambda _: locks.FIRST)
    tickets(packages)
    (fault,) = locks.survey().faults
    assert "acme.TicketsPiledUp version 1 and acme.TicketOpened version 1 have the same id" in fault.says
    assert "change the docstring" in fault.do


def test_a_type_that_a_package_gave_up(packages: Packages) -> None:
    """Its records are not readable any more, and the error says whose they are."""
    tickets(packages)
    value = Codec().encode(catalog.event_types()["TicketOpened"].model_validate({"customer": "anna"}))
    change(packages, "TOPICS = (TICKETS, PILES)", "TOPICS = (PILES,)")
    with pytest.raises(
        DecodeError, match=r"is acme\.TicketOpened, which acme-tickets 1\.0 no longer declares"
    ):
        Codec().decode(value)


def test_after_reinstalling_old_records_are_read(packages: Packages) -> None:
    """While the package is away its ids are unknown; with it back they mean what they meant."""
    tickets(packages)
    opened = catalog.event_types()["TicketOpened"].model_validate({"customer": "anna"})
    value = Codec().encode(opened)
    packages.remove("acme-tickets")
    with pytest.raises(DecodeError, match="unknown schema id"):
        Codec().decode(value)
    packages.install("acme-tickets", POINTS)
    assert Codec().decode(value).model_dump() == opened.model_dump()


def test_a_module_without_topics(packages: Packages) -> None:
    """There is nothing to lock: said, with what to name."""
    packages.write("acme.nothing", "from schemas.topics import SIGNALS\n")
    with pytest.raises(ConfigurationError, match=r"module acme\.nothing has no topics"):
        packages.lock("acme.nothing")
