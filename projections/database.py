"""The databases that views can live in: a SQLite file, or a PostgreSQL by URL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError

from projections.trouble import explaining, place_of
from schemas.errors import ConfigurationError

CONNECTIONS = 8
"""Readers of one process at a time; others wait for their turn."""
CONNECT_S = 5
_TURN_S = 10
_SQLITE_BUSY_S = 60
_SQLITE_WRITER = (
    "journal_mode=WAL",
    # Against power loss this may lose the last transactions, rows and offsets together: they are read again.
    "synchronous=NORMAL",
    "temp_store=MEMORY",
    "cache_size=-32768",
    "wal_autocheckpoint=4000",
    "journal_size_limit=67108864",
)
_SESSION = {
    # Statements are few and the same: compiling them costs more than it gives.
    "jit": "off",
    # Who holds locks and is gone, or stopped, is cut off: his successor must not wait for ever.
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_WRITER = _SESSION | {
    # As SQLite's `synchronous` above.
    "synchronous_commit": "off",
    "statement_timeout": "120s",
    "lock_timeout": "30s",
}
_READER = _SESSION | {
    "default_transaction_read_only": "on",
    "statement_timeout": "30s",
    "lock_timeout": "10s",
}
_CLIENT: dict[str, Any] = {
    "connect_timeout": CONNECT_S,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "fallback_application_name": "headwater",
}
_DRIVER = "postgresql+psycopg"


def database_url(given: str | URL) -> URL:
    """The URL of a database for views, with its driver. Raises ConfigurationError, never with a password."""
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "HEADWATER_DATABASE is not a URL",
            hint="postgresql://user:password@host:5432/database; "
            "percent-encode what is special in the password",
        ) from None
    name = url.drivername.lower()
    if name in ("postgres", "postgresql", _DRIVER):
        if "@" in (url.host or ""):
            raise ConfigurationError(
                "HEADWATER_DATABASE has two @", hint="write one inside the password as %40"
            )
        return url.set(drivername=_DRIVER)
    if name not in ("sqlite", "sqlite+pysqlite"):
        raise ConfigurationError(
            f"views cannot live in {name}", hint="HEADWATER_DATABASE is a postgresql:// URL, or unset"
        )
    if not url.database or url.database == ":memory:":
        raise ConfigurationError("the views need a file", hint="sqlite:////folder/views.sqlite")
    return url


def writer(url: URL, connections: int) -> Engine:
    """An engine that changes rows; on SQLite one connection, whose checkout is the queue."""
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        return _sqlite(url, _SQLITE_WRITER, "BEGIN IMMEDIATE", 1)
    return _postgresql(url, _WRITER, connections, "READ COMMITTED")


def reader(url: URL) -> Engine:
    """An engine whose transactions are snapshots and change nothing."""
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, ("query_only=ON",), "BEGIN", CONNECTIONS)
    return _postgresql(url, _READER, CONNECTIONS, "REPEATABLE READ")


def scratch() -> Engine:
    """An engine each of whose connections is an empty SQLite in memory."""
    engine = create_engine("sqlite://", poolclass=NullPool, connect_args={"check_same_thread": False})
    _begin_by(engine, (), "BEGIN")
    return engine


def _sqlite(url: URL, pragmas: Sequence[str], begin: str, connections: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=600,
        connect_args={"timeout": _SQLITE_BUSY_S, "check_same_thread": False},
    )
    _begin_by(engine, pragmas, begin)
    return engine


def _begin_by(engine: Engine, pragmas: Sequence[str], begin: str) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin transactions only at the first change
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _postgresql(url: URL, session: dict[str, str], connections: int, isolation_level: str) -> Engine:
    try:
        engine = create_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=_TURN_S,
            pool_pre_ping=True,  # a server that was started anew has forgotten its connections
            use_native_hstore=False,
            connect_args={name: value for name, value in _CLIENT.items() if name not in url.query},
            isolation_level=isolation_level,
        )
    except ImportError as error:
        raise ConfigurationError(
            "HEADWATER_DATABASE is PostgreSQL, and its driver is not installed",
            hint="pip install 'headwater[postgres]'",
        ) from error
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in session.items())

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # Not in the connection's `options`: poolers refuse those, and users have their own there.
        connection.autocommit, before = True, connection.autocommit
        connection.execute(f"SELECT {settings}")
        connection.autocommit = before

    return engine


def alone(connection: Connection) -> None:
    """Wait until no other transaction changes which tables there are; on SQLite writers are alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(
            text(
                # Rows that a crash of the server loses are read again from the log; tables would be missed.
                "SELECT set_config('synchronous_commit', 'on', true),"
                " pg_advisory_xact_lock(hashtextextended('headwater.' || current_schema(), 0))"
            )
        )


def check(given: str | URL) -> str:
    """Whether views can live there, and what it is. SQLite is looked at by whoever opens it.

    Raises ConfigurationError where somebody has to change something, DatabaseUnavailable where the
    server does not answer.
    """
    url = database_url(given)
    if url.get_backend_name() == "sqlite":
        return place_of(url)
    engine = writer(url, 1)
    try:
        with explaining(url), engine.connect() as connection:
            version, encoding, schema, may_create, is_replica, size = connection.execute(
                text(
                    "SELECT current_setting('server_version'), current_setting('server_encoding'),"
                    " current_schema(), has_schema_privilege(current_schema(), 'CREATE'),"
                    " pg_is_in_recovery(), pg_database_size(current_database())"
                )
            ).one()
    finally:
        engine.dispose()
    where = place_of(url)
    if encoding != "UTF8":
        raise ConfigurationError(
            f"{where}, has encoding {encoding}", hint="make a database with ENCODING 'UTF8'"
        )
    if not may_create:
        raise ConfigurationError(
            f"{where}: the user may not make tables in schema {schema or 'of the search path: there is none'}",
            hint="GRANT CREATE ON SCHEMA to this user, or make it the database's owner",
        )
    if is_replica:
        raise ConfigurationError(f"{where}, is a replica", hint="name the server that can be written to")
    return f"PostgreSQL {version.partition(' ')[0]}{where.removeprefix('PostgreSQL')}, {size / 2**20:.1f} MiB"
