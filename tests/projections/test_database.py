"""Databases by URL: which ones views can live in, and what is said of those that will not have them."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from projections import database
from projections.database import check, database_url
from projections.events import Events
from projections.store import Store
from projections.trouble import DatabaseUnavailable, explained
from schemas.errors import ConfigurationError, HeadwaterError
from tests.conftest import NewDatabase
from tests.postgres import USER, Cluster
from tests.projections.material import rows, store_at


@pytest.mark.parametrize(
    "given",
    ["postgresql+psycopg://u:p@h:1/d?sslmode=require", "postgresql://u:p@h:1/d?sslmode=require",
     "postgres://u:p@h:1/d?sslmode=require"],
)  # fmt: skip
def test_every_way_to_write_postgresql_is_one(given: str) -> None:
    """Whatever the scheme, the driver is psycopg, and the rest of the URL is kept."""
    url = database_url(given)
    assert url.render_as_string(hide_password=False) == "postgresql+psycopg://u:p@h:1/d?sslmode=require"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("mysql://u:secret@h/d", "cannot live in mysql"),
        ("postgresql+asyncpg://u:secret@h/d", r"cannot live in postgresql\+asyncpg"),
        ("postgresql://u:secret@h:port/d", "not a URL"),
        ("u:secret@h", "not a URL"),
        ("postgresql://u:p@ssecret@h/d", "two @"),
        ("sqlite://", "need a file"),
        ("sqlite:///:memory:", "need a file"),
    ],
)
def test_another_url_is_refused(given: str, says: str) -> None:
    """What is no database for views is said, with what to do and without the password."""
    with pytest.raises(ConfigurationError, match=says) as refused:
        Store(given, [])
    assert refused.value.hint
    assert "secret" not in str(refused.value)


def test_a_database_that_is_well_is_described(postgres: Cluster) -> None:
    """A look at a good database gives its version and place, and neither user nor password."""
    said = check(postgres.url())
    assert f"at 127.0.0.1:{postgres.port}, database {USER}" in said
    assert postgres.password not in said


def refusal(url: str) -> HeadwaterError:
    """What a look at a database raises."""
    with pytest.raises(HeadwaterError) as refused:
        check(url)
    return refused.value


def test_a_wrong_password_is_said(postgres: Cluster) -> None:
    """A password that the server refuses: a setting to mend, which is named; the password is not."""
    error = refusal(postgres.url(password="not-the-password"))
    assert isinstance(error, ConfigurationError)
    assert "refuses the user or password" in error.message
    assert "HEADWATER_DATABASE" in error.hint
    assert "not-the-password" not in str(error)


def test_a_missing_database_is_said(postgres: Cluster) -> None:
    """A database that does not exist is named, with how to make it."""
    error = refusal(postgres.url(database="nowhere"))
    assert isinstance(error, ConfigurationError)
    assert "database nowhere, has no such database" in error.message
    assert "createdb" in error.hint


def test_a_user_without_rights_is_told_which(postgres: Cluster) -> None:
    """A user who may connect and not make tables is told which right he lacks."""
    with postgres.admin() as admin:
        admin.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
    error = refusal(postgres.url(username="reader", password="reader"))
    assert isinstance(error, ConfigurationError)
    assert "may not make tables in schema public" in error.message
    assert "GRANT CREATE" in error.hint
    nowhere = refusal(postgres.url(query={"options": "-csearch_path=nowhere"}))
    assert "there is none" in nowhere.message


def test_another_encoding_is_refused(postgres: Cluster) -> None:
    """A database that could not keep every text is refused at once, not at the first letter."""
    with postgres.admin() as admin:
        admin.execute(f"CREATE DATABASE latin OWNER {USER} ENCODING 'LATIN1' TEMPLATE template0")
    assert "encoding LATIN1" in refusal(postgres.url(database="latin")).message


def test_a_server_that_is_down_may_come_back(postgres: Cluster) -> None:
    """Where nobody listens the error is one that passes, and says where it looked."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        error = refusal(postgres.url(port=s.getsockname()[1]))
    assert isinstance(error, DatabaseUnavailable)
    assert error.retriable
    assert "Connection refused" in error.message
    assert postgres.password not in str(error)


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        yield int(s.getsockname()[1])


def test_a_silent_server_is_not_waited_for(
    postgres: Cluster, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that never answers is given up after the connect timeout."""
    monkeypatch.setitem(database._CLIENT, "connect_timeout", 2)
    assert isinstance(refusal(postgres.url(port=silent)), DatabaseUnavailable)


def test_a_missing_driver_is_said(postgres: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg the error says which extra to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"headwater\[postgres\]"):
        Store(postgres.url(), [])


def test_readers_wait_for_their_turn_and_not_for_ever(
    postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process has no more than its connections; who gets none in time gets an error of the database's."""
    monkeypatch.setattr(database, "_TURN_S", 0.1)
    monkeypatch.setattr(database, "CONNECTIONS", 2)
    store = store_at(postgres.new_schema(), [Events()])
    with store.read("events"), store.read("events"):
        with pytest.raises(Exception, match="QueuePool limit") as full:
            store.live("events")
        assert isinstance(explained(store.url, full.value), DatabaseUnavailable)
    assert store.live("events") == (1, {})


def test_a_reading_cannot_change_anything(new_database: NewDatabase) -> None:
    """What is read with is not written with, whatever a question says."""
    store = store_at(new_database(), [Events()])
    with (
        pytest.raises(Exception, match=r"read-only|readonly") as refused,
        store.read("events") as reading,
    ):
        reading.connection.execute(text("delete from events_1"))
    assert isinstance(explained(store.url, refused.value), DatabaseUnavailable)


def test_a_long_question_is_cut_off(postgres: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that takes too long ends by itself."""
    monkeypatch.setitem(database._READER, "statement_timeout", "200ms")
    store = store_at(postgres.new_schema(), [Events()])
    with pytest.raises(Exception, match="statement timeout"), store.read("events") as reading:
        reading.connection.execute(text("select pg_sleep(20)"))


def test_connections_survive_a_restart(own_postgres: Cluster) -> None:
    """Connections that idled while the server died are replaced without anybody's noticing."""
    store = store_at(own_postgres.new_schema(), [Events()])
    store.apply("events", 1, [], {}, {("agent.runs", 0): 1})
    own_postgres.kill()
    with pytest.raises(Exception, match="refused"):
        store.live("events")
    own_postgres.start()
    _, kept = store.live("events")  # the last rows may be lost, and are read again then; tables are not
    store.apply("events", 1, [], {("agent.runs", 0): kept.get(("agent.runs", 0))}, {("agent.runs", 0): 2})
    assert store.live("events") == (1, {("agent.runs", 0): 2})


def test_processes_that_start_together_make_one_set_of_tables(new_database: NewDatabase) -> None:
    """Several processes that prepare an empty database at once leave one live generation of each view."""
    url = new_database()
    failures: list[BaseException] = []

    def prepare() -> None:
        try:
            store_at(url, [Events()]).close()
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store = Store(url, [Events()])
    assert store.states("events") == [(1, Events.version, "live")]
    assert rows(store, "events") == {"events": []}


def test_a_users_own_options_are_kept(postgres: Cluster) -> None:
    """What the URL says of the connection goes before what we would say."""
    engine = database.reader(database_url(postgres.url(query={"application_name": "mine"})))
    with engine.connect() as connection:
        found: Any = connection.execute(text("select current_setting('application_name')")).scalar()
    assert found == "mine"
