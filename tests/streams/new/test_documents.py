"""docs/tutorial.md and docs/extending.md run as they stand there: every command and every block of code."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from streams.settings import Settings
from streams.supervision.status import read
from tests.conftest import free_base_port
from tests.streams.instances import until
from tests.streams.new.environment import ROOT, Environment

TUTORIAL, EXTENDING = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"(?ms)^(?:<!-- (?P<how>[^\n]*?) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$")
MINUTES = 15


class Block(NamedTuple):
    """Code in a document; `how` is what its comment says to whoever runs it."""

    kind: str
    how: str
    text: str


def blocks(document: Path) -> list[Block]:
    """All blocks of a document, in order."""
    return [Block(m["kind"], m["how"] or "", m["text"]) for m in BLOCK.finditer(document.read_text())]


class Reader:
    """Somebody who does what he reads, in a folder of his own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.own = Environment(folder / "venv")
        self.port = free_base_port()
        self.own.variables["HEADWATER_PORT"] = str(self.port)
        self.settings = Settings(data=self.folder / ".headwater", port=self.port)
        self.up: subprocess.Popen[bytes] | None = None
        self._command = ""

    def shell(self, text: str, *, check: bool = True) -> str:
        """What a block of commands says; it has to succeed."""
        return self.own.run("bash", "-euc", self._here(text), cwd=self.folder, check=check).stdout

    def write(self, text: str) -> None:
        """A file that names itself in its first line; TOML is added to what is there."""
        name = text.splitlines()[0].removeprefix("# ")
        path = self.folder / name
        path.write_text(path.read_text() + "\n" + text if name.endswith(".toml") else text)

    def start(self, command: str | None = None) -> None:
        """A block that goes on, in the background, until all runs."""
        self._command = command or self._command
        with (self.folder / "up.log").open("ab") as log:
            self.up = subprocess.Popen(
                ["bash", "-euc", f"exec {self._here(self._command)}"],
                cwd=self.folder, env=self.own.variables, stdout=log, stderr=log,
            )  # fmt: skip
        until(self._is_ready, 120)

    def stop(self) -> None:
        """Ctrl-C."""
        if self.up is not None and self.up.poll() is None:
            self.up.send_signal(signal.SIGINT)
            self.up.wait(30)

    def _is_ready(self) -> bool:
        assert self.up is not None
        assert self.up.poll() is None, (self.folder / "up.log").read_text()
        said = read(self.settings.run_folder / "up.json")
        return said is not None and said["pid"] == self.up.pid and said["state"] == "running"

    def answer(self, command: str) -> Any:
        """What a block with curl says, as JSON; nothing while it is not there yet."""
        try:
            return json.loads(self.shell(command, check=False))
        except ValueError:
            return None

    def _here(self, text: str) -> str:
        return text.replace("127.0.0.1:7000", f"127.0.0.1:{self.port}")


def holds(found: Any, expected: Any) -> bool:
    """Whether an answer has all that is expected of it, and maybe more fields."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(holds(found.get(k), v) for k, v in expected.items())
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(holds, found, expected))
    return bool(found == expected)


@contextmanager
def tracker() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A ticket tracker: its address, and (idempotency key, body) of what it was sent."""
    got: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            got.append((self.headers["Idempotency-Key"], body))
            self.send_response(201)
            self.end_headers()
            self.wfile.write(b'{"id": 7}')

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """In an environment where the product is installed, and nothing of his own."""
    one = Reader(tmp_path)
    try:
        yield one
    finally:
        one.stop()


@pytest.mark.prove
def test_the_documents(reader: Reader) -> None:
    """The tutorial, word for word, on a real broker; then the view and the reactor of the page behind it."""
    began = time.monotonic()
    steps = iter(blocks(TUTORIAL))
    for step in steps:
        if step.kind == "python":
            reader.write(step.text)
        elif "background" in step.how:
            reader.start(step.text)
        elif "answers" in step.how:
            command, expected = step.text, json.loads(next(steps).text)
            until(lambda command=command, expected=expected: holds(reader.answer(command), expected), 30)  # type: ignore[misc]
        else:
            assert step.kind == "sh"
            reader.shell(step.text)
    took_s = time.monotonic() - began
    assert took_s < MINUTES * 60, "there has to be time left to read"
    reader.stop()

    for step in blocks(EXTENDING):
        assert step.kind in {"python", "toml"}
        reader.write(step.text)
    reader.shell("pip install -e 'tool-errors[test]' && pytest -q tool-errors && ruff check tool-errors")
    reader.shell("ruff format --check tool-errors && cd tool-errors && mypy")
    with tracker() as (url, got):
        reader.own.variables["TRACKER_URL"] = url
        reader.start()
        reader.shell(
            'for n in 1 2 3 4 5; do echo \'{"agent_id": "ben", "tool_name": "book", "call_id": "\'$n\'", '
            '"error_type": "E"}\'; done | headwater produce ToolCallFailed'
        )
        ask = 'curl -s -H "Authorization: Bearer $(cat .headwater/api-key)" http://127.0.0.1:7000/v1/'
        until(lambda: [body["agent_id"] for _, body in got] == ["ben"], 30)
        rows = {"items": [{"agent_id": "ben", "hours": 1}, {"agent_id": "sofia", "hours": 1}]}
        until(lambda: holds(reader.answer(f"{ask}views/piles"), rows), 30)
        one = reader.answer(f"{ask}views/piles?where=agent_id=sofia")
        assert [row["agent_id"] for row in one["items"]] == ["sofia"]
        until(lambda: holds(reader.answer(f"{ask}effects?reactor=tool-errors-tickets"), done()), 30)
        assert reader.answer(f"{ask}effects?reactor=tool-errors-tickets")["items"][0]["id"] == got[0][0]
    said = reader.shell("headwater doctor")
    assert "views tool_errors.view:Piles" in said
    assert "reactors tool_errors.reactor:Tickets" in said


def done() -> dict[str, Any]:
    """What the effects' list says of the one ticket."""
    return {"items": [{"reactor": "tool-errors-tickets", "status": "succeeded", "detail": "ticket 7"}]}
