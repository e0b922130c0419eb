"""Folds, views and reactors of packages: beside ours, or refused with what to do; commands go on without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from processors import catalog as folds
from processors.versions import by_name
from projections import catalog as views
from projections.events import Events
from schemas import catalog
from schemas.codec import Codec
from schemas.errors import ConfigurationError
from streams import extensions
from streams.admin import declared
from streams.authority.issued import issued_ids
from streams.authority.settle import remember, settle
from streams.cli import app
from streams.codec import codec_of
from streams.doctor.extensions import extensions as examined
from streams.reactors import catalog as reactors
from streams.settings import Settings
from streams.supervision.prepare import create
from tests.conftest import free_base_port
from tests.packages import EVENTS, Packages, tickets

FOLDS = """\
import msgspec

from processors.fold import Fold
from schemas import topics
from schemas.events import Signal
from {events} import PILES, TICKETS, TicketOpened, TicketsPiledUp


class Opened(msgspec.Struct):
    count: int = 0


class Piles(Fold):
    name = "piles"
    topics = (topics.SIGNALS,)
    accepts = (Signal,)
    emits = (TicketsPiledUp,)
    state = Opened

    def initial(self, key):
        return Opened()

    def on_event(self, state, event, at):
        state.count += 1
        yield TicketsPiledUp(customer=event.component, tickets=state.count)


class Ask(Fold):
    name = "ask"
    topics = (TICKETS,)
    accepts = (TicketOpened,)
    emits = (Signal,)

    def on_event(self, state, event, at):
        yield Signal(component=f"customer:{{event.customer}}", kind="metric", name="tickets")
"""
VIEWS = """\
from projections.columns import TEXT
from projections.view import View
from schemas.topics import SIGNALS
from sqlalchemy import Column, Table


class Customers(View):
    name = "customers"
    about = "who has asked"
    topics = (SIGNALS,)

    def tables(self, metadata, suffix):
        return {"customers": Table(f"customers{suffix}", metadata, Column("customer", TEXT, primary_key=True))}

    def apply(self, connection, tables, batch):
        pass
"""
REACTORS = """\
from schemas.topics import SIGNALS
from schemas.events import Signal
from streams.reactors.reactor import Reactor


class Pager(Reactor):
    name = "pager"
    topics = (SIGNALS,)
    accepts = (Signal,)
"""
POINTS = """\
headwater.events.acme = acme.events:TOPICS
headwater.folds.piles = acme.folds:Piles
headwater.folds.ask = acme.folds:Ask
headwater.views.customers = acme.views:Customers
headwater.reactors.pager = acme.reactors:Pager
"""


def whole(packages: Packages, **changed: str) -> None:
    """A package with everything; `changed` modules are appended to."""
    modules = {
        "events": EVENTS + "TOPICS = (TICKETS, PILES)\n",
        "folds": FOLDS.format(events="acme.events"),
        "views": VIEWS,
        "reactors": REACTORS,
    }
    modules = {f"acme.{name}": text + changed.get(name, "") for name, text in modules.items()}
    packages.install("acme", POINTS, modules)
    packages.lock("acme.events")


def only() -> tuple[str, str]:
    """What the only fault says, and what to do."""
    ((_, says, do),) = extensions.faults()
    return says, do


def test_a_version_stands_beside_the_other(packages: Packages) -> None:
    """A package may add a version of a fold that is there, its own or ours."""
    again = "class Again(Piles):\n    version = 2\n"
    ours = "from processors.anomaly import Anomaly\nclass Mine(Anomaly):\n    version = 1001\n"
    whole(packages, folds=again + ours)
    points = POINTS + "headwater.folds.again = acme.folds:Again\nheadwater.folds.mine = acme.folds:Mine\n"
    packages.install("acme", points)
    assert extensions.faults() == []
    found = by_name(folds.folds())
    assert list(found["piles"]) == [1, 2]
    assert list(found["anomaly"]) == [1, 1001]


def test_everything_stands_beside_ours(packages: Packages) -> None:
    """Folds, views, reactors; their topics, changelogs and ledgers are declared for Kafka."""
    before = len(folds.usable()), len(views.usable()), len(reactors.usable())
    whole(packages)
    assert extensions.faults() == []
    assert [fold.name for fold in folds.folds()][before[0] :] == ["ask", "piles"]
    assert [view.name for view in views.views()][before[1] :] == ["customers"]
    assert [reactor.name for reactor in reactors.reactors()][before[2] :] == ["pager"]
    specs = {spec.name: spec.partitions for spec in declared(Settings(partitions=5, raw_partitions=3))}
    assert specs["acme.tickets"] == 3
    assert specs["acme.piles"] == 5
    assert specs["reactors.pager.ledger"] == 5
    assert {"acme.tickets", "acme.piles"} <= {topic.name for topic in Events().topics}


@pytest.mark.parametrize(
    ("module", "code", "says"),
    [
        ("folds", "1 / 0\n", "acme.folds:Piles cannot be imported: ZeroDivisionError"),
        ("folds", "Piles = 7\n", "cannot be made by calling it without arguments: TypeError"),
        ("folds", "Piles = dict\n", "{} is no fold"),
        ("folds", "del Piles.accepts\n", "it does not say its accepts"),
        ("folds", "Piles.name = 'a b'\n", "'a b' is no name for a fold"),
        ("folds", "Piles.name = 'anomaly'\n", "fold anomaly version 1 is Headwater's already"),
        ("folds", "Piles.name = 'ask'\n", "fold ask version 1 is acme 1.0's already"),
        ("folds", "Piles.version = 0\n", "fold piles is version 0"),
        ("folds", "Piles.version = '2'\n", "fold piles is version '2'"),
        ("folds", "Piles.migrates = 1\n", "fold piles migrates 1"),
        ("folds", "Piles.migrates = (1,)\n", "migrates (1,) and has no `migrate`"),
        ("folds", "del Piles.on_event\n", "fold piles has no on_event"),
        ("folds", "Piles.topics = topics.SIGNALS\n", "fold piles reads Topic("),
        (
            "folds",
            "Piles.topics = (topics.SIGNALS, topics.Topic('acme.none', 'keyed', {}, ''))\n",
            "fold piles reads topic acme.none, which nobody declares",
        ),
        (
            "folds",
            "Piles.accepts = (TicketOpened,)\n",
            "accepts TicketOpened, which is in none of its topics",
        ),
        ("folds", "Piles.accepts = ()\n", "fold piles accepts ()"),
        ("folds", "Piles.emits = TicketsPiledUp\n", "fold piles emits <class"),
        ("folds", "Piles.emits = (str,)\n", "emits str, which is no event"),
        (
            "folds",
            "class Lost(TicketOpened):\n    pass\nPiles.emits = (Lost,)\n",
            "fold piles emits Lost, which belongs to no topic",
        ),
        (
            "folds",
            "from schemas.events import WebhookRemoved\nPiles.emits = (WebhookRemoved,)\n",
            "topic headwater.webhooks is written by Headwater alone",
        ),
        ("folds", "Piles.state = dict\n", "fold piles keeps dict as state, which cannot be saved"),
        ("folds", "del Piles.initial\n", "fold piles keeps state and has no `initial`"),
        (
            "folds",
            "Piles.topics, Piles.accepts = (TICKETS,), (TicketOpened,)\n",
            "keeps state and reads the raw topic acme.tickets",
        ),
        ("views", "1 / 0\n", "acme.views:Customers cannot be imported"),
        ("views", "Customers = dict\n", "{} is no view"),
        ("views", "Customers.name = 'events'\n", "view events is Headwater's already"),
        ("views", "Customers.name = 'Kunden'\n", "'Kunden' is no name for a view"),
        ("views", "del Customers.about\n", "it does not say its about"),
        ("views", "Customers.topics = ('signals',)\n", "reads topic 'signals', which nobody declares"),
        ("views", "del Customers.tables\n", "NotImplementedError: customers.tables"),
        (
            "views",
            "Customers.tables = lambda s, m, x: {'w': Table(f'webhooks{x}', m, Column('a', TEXT))}\n",
            "has a table that another view has",
        ),
        (
            "views",
            "Customers.tables = lambda s, m, x: {'w': Table('customers', m, Column('a', TEXT))}\n",
            "let its name end in `suffix`",
        ),
        ("reactors", "1 / 0\n", "acme.reactors:Pager cannot be imported"),
        ("reactors", "Pager = dict\n", "{} is no reactor"),
        ("reactors", "Pager.name = 'notifier'\n", "reactor notifier is Headwater's already"),
        ("reactors", "Pager.topics = ()\n", "reactor pager reads ()"),
    ],
)
def test_what_is_wrong_is_said(packages: Packages, module: str, code: str, says: str) -> None:
    """Which package, what, what to do. The process concerned refuses to start; what is whole can be used."""
    whole(packages, **{module: code})
    found = extensions.faults()
    assert {fault.package for fault in found} == {"acme 1.0"}
    assert any(says in f"{fault.says} {fault.do}" for fault in found), found
    assert all(fault.do for fault in found)
    strict = {"folds": folds.folds, "views": views.views, "reactors": reactors.reactors}
    for name, whole_catalog in strict.items():
        if name == module:
            with pytest.raises(ConfigurationError, match=r"package acme 1\.0: "):
                whole_catalog()
        else:
            whole_catalog()
    assert {"intake", "anomaly"} <= {fold.name for fold in folds.usable()}
    assert "events" in {view.name for view in views.usable()}
    assert "notifier" in {reactor.name for reactor in reactors.usable()}


def test_event_types_are_needed_by_all(packages: Packages) -> None:
    """Where a package's event types are at fault, folds, views and reactors all refuse: they would miss them."""
    whole(packages)
    (packages.folder / "acme" / "events.lock.json").unlink()
    packages.find_anew()
    for strict in (folds.folds, views.views, reactors.reactors, extensions.require_whole):
        with pytest.raises(ConfigurationError, match="the schema of TicketOpened is not locked"):
            strict()


async def test_topics_are_not_created_for_half_a_package(packages: Packages) -> None:
    """`topics create` and `up` refuse before they change anything."""
    whole(packages, folds="1 / 0\n")
    with pytest.raises(ConfigurationError, match="ZeroDivisionError"):
        await create(Settings())


def test_doctor_names_packages_and_faults(packages: Packages) -> None:
    """What each adds, and what of it cannot be used, with what to do."""
    whole(packages, reactors="1 / 0\n")
    ok, fail = examined()
    assert (ok.check, ok.level) == ("package acme 1.0", "ok")
    for part in ("topics acme.events:TOPICS", "folds acme.folds:Ask", "views acme.views:Customers"):
        assert part in ok.says
    assert (fail.check, fail.level, fail.do) == (
        "package acme 1.0",
        "fail",
        "mend it, or `pip uninstall acme`",
    )
    packages.remove("acme")
    assert examined() == []


async def test_the_log_remembers_whose_event_types_they_were(packages: Packages, tmp_path: Path) -> None:
    """With the package gone, doctor and codec name it, and processes start; with it back all is as it was."""
    settings = Settings(data=tmp_path / "data", port=free_base_port())
    tickets(packages)
    await remember(settings, (await settle(settings))[0])
    event = catalog.event_types()["TicketOpened"].model_validate({"customer": "anna"})
    value = (await codec_of(settings)).encode(event)

    packages.remove("acme-tickets")
    with pytest.raises(
        Exception, match=r"acme\.TicketOpened, which is not installed here.*package acme-tickets"
    ):
        (await codec_of(settings)).decode(value)
    from streams.doctor.schemas import schema_ids

    (gone,) = [f for f in await schema_ids(settings) if f.level == "warn"]
    assert "acme.TicketOpened, acme.TicketsPiledUp, given by package acme-tickets" in gone.says

    packages.install("acme-tickets", "headwater.events.acme = acme.events:TOPICS", version="2.0")
    assert (await codec_of(settings)).decode(value).model_dump() == event.model_dump()
    assert {f.level for f in await schema_ids(settings)} == {"ok"}


async def test_a_lock_that_was_begun_anew_reads_what_the_log_has(packages: Packages, tmp_path: Path) -> None:
    """While a package is made its lock may be removed: the log remembers the schemas that its records have."""
    settings = Settings(data=tmp_path / "data", port=free_base_port())
    tickets(packages)
    await remember(settings, (await settle(settings))[0])
    old = Codec().encode(catalog.event_types()["TicketOpened"].model_validate({"customer": "anna"}))
    path = packages.folder / "acme" / "events.py"
    path.write_text(path.read_text().replace('text: str = ""', 'text: str = ""\n    urgent: bool = False'))
    (path.parent / "events.lock.json").unlink()
    packages.find_anew()
    packages.lock("acme.events")
    codec = await codec_of(settings, keeps=True)
    assert codec.decode(old).model_dump() == {"customer": "anna", "text": "", "urgent": False}
    kept = [i for i in await issued_ids(settings).load() if i.subject == "acme.TicketOpened"]
    assert len({i.id for i in kept}) == 2
    assert {(i.version, i.by) for i in kept} == {(0, "package acme-tickets")}


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A command line with a data folder and ports of its own, nothing running."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWATER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HEADWATER_PORT", str(free_base_port()))
    monkeypatch.setenv("COLUMNS", "250")
    return CliRunner()


def test_commands_go_on_beside_a_broken_package(runner: CliRunner, packages: Packages) -> None:
    """What has nothing to do with it works; what lists declared things says on stderr what is left out."""
    whole(packages, folds="1 / 0\n")
    for command in (["topology"], ["topics", "list"], ["schemas", "list"], ["views", "list"]):
        result = runner.invoke(app, command)
        assert result.exit_code == 0, result.output
        assert "warning: package acme 1.0: acme.folds:Piles cannot be imported: Zero" in result.stderr
        assert "acme.folds" not in result.stdout
    for command in (["keys", "list"], ["status"], ["schemas", "show", "Signal"]):
        result = runner.invoke(app, command)
        assert "acme" not in result.output
    report = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert [f["level"] for f in report["findings"] if f["check"] == "package acme 1.0"] == [
        "ok",
        "fail",
        "fail",
    ]


def test_topology_shows_whose_a_fold_is(runner: CliRunner, packages: Packages) -> None:
    """A package's fold stands beside ours, with its package."""
    whole(packages)
    rows = {r["fold"]: r for r in json.loads(runner.invoke(app, ["topology", "--json"]).stdout)}
    assert rows["piles v1"]["package"] == "acme 1.0"
    assert rows["piles v1"]["writes"] == ["acme.piles: TicketsPiledUp"]
    assert rows["intake v1"]["package"] is None


def test_locking_and_checking_by_command(runner: CliRunner, packages: Packages) -> None:
    """`schemas lock` writes beside the module, a second time nothing; `schemas check` counts them among ours."""
    tickets(packages, lock=False)
    refused = runner.invoke(app, ["schemas", "check"])
    assert refused.exit_code == 1
    assert "not locked" in refused.stderr
    assert "schemas lock acme.events" in refused.stderr
    locked = runner.invoke(app, ["schemas", "lock", "acme.events"])
    assert "events.lock.json: TicketOpened v1 (id 1247858283), TicketsPiledUp v1" in locked.stdout
    packages.find_anew()
    assert "nothing changed" in runner.invoke(app, ["schemas", "lock", "acme.events"]).stdout
    assert "equal the models" in runner.invoke(app, ["schemas", "check"]).stdout
    rows = json.loads(runner.invoke(app, ["schemas", "list", "--json"]).stdout)
    assert {"event": "TicketOpened", "subject": "acme.TicketOpened", "version": 1, "id": 1247858283} in rows
    missing = runner.invoke(app, ["schemas", "lock", "acme.nowhere"])
    assert missing.exit_code == 1
    assert "module acme.nowhere cannot be imported" in missing.stderr


def test_help_looks_for_no_packages(packages: Packages) -> None:
    """`headwater --help` imports nothing of a package's: a broken or slow one does not show."""
    whole(packages, events="import sys; sys.stderr.write('imported')\n")
    run = subprocess.run(
        [sys.executable, "-m", "streams", "--help"],
        env=os.environ | packages.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "topology" in run.stdout
    assert run.stderr == ""
