"""A throwaway PostgreSQL of what is installed on this machine: real, on loopback, gone after use."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import psycopg
from sqlalchemy import URL

from streams.broker import die_with_parent

USER = "headwater"
_START_S = 30.0


def installed() -> Path | None:
    """The folder of PostgreSQL's programs, the newest of Debian's or what is on the path; None without."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


class Cluster:
    """A PostgreSQL server with a database that a user without other rights owns."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="headwater-pg-"))
        # PostgreSQL refuses to run as root.
        self._as: dict[str, Any] = {"cwd": self.folder}
        if os.geteuid() == 0:
            self._as |= {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(self.folder, "postgres", "postgres")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = int(s.getsockname()[1])
        self.password = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    def make(self) -> None:
        """Make the cluster and start it."""
        subprocess.run(
            [self._programs / "initdb", "-D", self.folder / "data", "-U", "admin", "--auth-local=trust",
             "--auth-host=password", "--no-sync", "--no-locale", "--encoding=UTF8"],
            check=True, stdout=subprocess.DEVNULL, **self._as,
        )  # fmt: skip
        self.start()
        with self.admin() as admin:
            admin.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{self.password}'")
            admin.execute(f"CREATE DATABASE {USER} OWNER {USER}")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        end = time.monotonic() + _START_S
        while True:
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [self._programs / "postgres", "-D", self.folder / "data", "-p", str(self.port),
                     "-k", self.folder, "-h", "127.0.0.1", "-F", "-c", "full_page_writes=off",
                     "-c", "max_connections=200", "-c", "deadlock_timeout=100ms"],
                    stdout=log, stderr=log, **self._as,
                    preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads hold locks that prctl needs
                )  # fmt: skip
            while self._process.poll() is None:
                try:
                    self.admin().close()
                except psycopg.OperationalError:
                    assert time.monotonic() < end, (self.folder / "log").read_text()
                    time.sleep(0.05)
                else:
                    return
            # After a kill the last processes may hold the shared memory for a moment.
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL every process of the server."""
        assert self._process is not None
        for process in [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._process.wait()

    def remove(self) -> None:
        """Stop the server and delete everything."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder)

    def admin(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A superuser's connection, which commits each statement."""
        return psycopg.connect(
            host=str(self.folder), port=self.port, user="admin", dbname=database, autocommit=True
        )

    def url(self, **changes: Any) -> str:
        """The database's URL; `changes` are parts of it: host, password, database, query."""
        parts: dict[str, Any] = {
            "drivername": "postgresql", "username": USER, "password": self.password, "host": "127.0.0.1",
            "port": self.port, "database": USER,
        } | changes  # fmt: skip
        return URL.create(**parts).render_as_string(hide_password=False)

    @property
    def version(self) -> str:
        """The server's version."""
        with self.admin() as admin:
            number = admin.info.server_version
        return f"{number // 10_000}.{number % 10_000}"

    def new_schema(self) -> str:
        """The URL of an empty schema of its own."""
        name = f"s{next(self._numbers)}"
        with self.admin(USER) as admin:
            admin.execute(f"CREATE SCHEMA {name} AUTHORIZATION {USER}")
        return self.url(query={"options": f"-csearch_path={name}"})
