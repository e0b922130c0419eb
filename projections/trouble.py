"""What the errors of the views' database mean, and what to do about each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoTurn

from schemas.errors import ConfigurationError, HeadwaterError

TROUBLE = (DBAPIError, NoTurn)
"""The database's own errors; the second: every connection is taken, or waits for a silent server."""
_CONFLICTS = {"40001", "40P01"}
_CONNECTING = (
    (r"password authentication failed|no password supplied", "refuses the user or password",
     "set the right user and password in HEADWATER_DATABASE"),
    (r'database ".*" does not exist', "has no such database", "make it with `createdb`"),
    (r'role ".*" does not exist', "has no such user", "make it with `createuser`"),
    (r"no pg_hba\.conf entry", "does not let this machine in", "give it an entry in pg_hba.conf"),
)  # fmt: skip

_SQLITE = (
    ("is full", "make room on its disk: the views go on by themselves"),
    ("readonly", "see why its disk is read-only: the views go on by themselves once it is not"),
)


class DatabaseUnavailable(HeadwaterError):
    """The views' database does not answer, or not now."""

    category = "TEMPORARY"


def place_of(url: URL) -> str:
    """Where a database is, for people: no user, no password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    host = url.host or url.query.get("host") or "the local socket"
    return f"PostgreSQL at {host}:{url.port or 5432}, database {url.database}"


@contextmanager
def explaining(url: URL) -> Iterator[None]:
    """Raise the database's own trouble as a HeadwaterError that says what to do."""
    try:
        yield
    except TROUBLE as error:
        raise explained(url, error) from error


def explained(url: URL, error: Exception) -> HeadwaterError:
    """What an error of the database's own means, and what to do: never with the password in it."""
    where = place_of(url)
    said = str(error.orig).strip() if isinstance(error, DBAPIError) else str(error)
    if url.get_backend_name() == "sqlite":
        hint = next((do for what, do in _SQLITE if what in said), "see `headwater doctor`")
        return DatabaseUnavailable(f"{where}: {said}", hint=hint)
    for pattern, what, do in _CONNECTING:
        if re.search(pattern, said):
            return ConfigurationError(f"{where}, {what}", hint=do)
    said = said.partition("\n")[0]
    if url.password:
        said = said.replace(str(url.password), "***")
    answered = sqlstate(error) is not None
    return DatabaseUnavailable(
        f"{where}: {said}",
        hint="see PostgreSQL's log" if answered else "start it, or set HEADWATER_DATABASE right",
    )


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code of an error; None where it is not the server's."""
    return getattr(getattr(error, "orig", None), "sqlstate", None)


def is_conflict(error: BaseException) -> bool:
    """Whether two transactions got into each other's way: a deadlock or a serialization failure."""
    return sqlstate(error) in _CONFLICTS


def lacks_table(error: BaseException) -> bool:
    """Whether a statement named a table that is not there."""
    return sqlstate(error) == "42P01" or "no such table" in str(getattr(error, "orig", ""))
