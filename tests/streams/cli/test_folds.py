"""`headwater folds` on a real broker with a worker: list, diff, cut over, go back; and all that cannot be done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from streams.cli import app
from streams.settings import Settings
from streams.versions.session import manned
from tests.conftest import free_base_port
from tests.packages import Packages
from tests.streams.undisturbed import produce
from tests.streams.versions.installation import VERSIONS, Fleet
from tests.streams.versions.test_broker import settled, signals

Run = Callable[..., Result]
POINTS = "\n".join(f"headwater.folds.{name} = {VERSIONS[name]}" for name in ("chain-1", "chain-2", "echo-1"))
PARTITIONS = 2


@pytest.fixture
def fleet(broker: Settings, tmp_path: Path) -> Iterator[Fleet]:
    """A namespace with its topics."""
    fleet = Fleet(broker, tmp_path, PARTITIONS)
    code, _, complained = fleet.run("topics", "create", names=("chain-1", "echo-1"))
    assert code == 0, complained
    yield fleet
    fleet.stop()


@pytest.fixture
def run(fleet: Fleet, packages: Packages, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, with two versions of `chain` installed."""
    packages.install("versions-under-test", POINTS)
    for name, value in fleet.environment().items():
        if name.startswith("HEADWATER_"):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("HEADWATER_LOG_FORMAT")
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(app, ["folds", *arguments], input=input)

    return invoke


def rows(run: Run) -> dict[str, Any]:
    """`headwater folds list --json`, by fold."""
    result = run("list", "--json")
    assert result.exit_code == 0, result.output
    return {row["fold"]: row for row in json.loads(result.stdout)}


def refused(result: Result) -> str:
    """What a command that did nothing complains of."""
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def begun(fleet: Fleet) -> None:
    """Version 1 was at work: it has folded what there is, and its worker has ended."""
    worker = fleet.work("chain-1", "echo-1")
    asyncio.run(produce(fleet.settings, signals(0, 300), per_second=1e9))
    asyncio.run(settled(fleet.settings))
    worker.terminate()
    worker.wait(15)


def test_a_list_and_a_comparison(fleet: Fleet, run: Run) -> None:
    """What is in force and what another version would have said, with no worker at all; nothing gets ready then."""
    assert rows(run)["chain"]["in_force"] is None
    assert "has never run on this log" in refused(run("cut-over", "chain", "--yes"))
    begun(fleet)
    chain = rows(run)["chain"]
    assert (chain["installed"], chain["in_force"], chain["proposed"]) == ([1, 2], 1, None)
    assert [place["since"] for place in chain["partitions"]] == [None, None]
    table = run("list").stdout
    assert "the beginning" in table
    assert "1, 2" in table

    # Without workers nothing gets ready, and nothing is changed.
    given_up = run("cut-over", "chain", "--yes", "--timeout", "1s")
    assert "not ready for version 2 within 1 s: signals/0, signals/1; the cut-over was given up" in refused(
        given_up
    )
    assert rows(run)["chain"]["in_force"] == 1
    assert rows(run)["chain"]["proposed"] is None

    compared = run("diff", "chain", "--json")
    assert compared.exit_code == 1, compared.output
    said = json.loads(compared.stdout)
    assert (said["in_force"], said["candidate"], said["same"], said["inputs"]) == (1, 2, False, 310)
    counted = said["outputs"]["AnomalyDetected"]
    # Twenty keys had eight signals, twenty seven; Chain answers each second and again the sixth, Chain2 each third.
    assert counted["same"] == 0
    assert counted["changed"] + counted["only_old"] == 20 * (4 + 1) + 20 * (3 + 1)
    assert counted["changed"] + counted["only_new"] == 40 * 2
    assert sum(said["keys"].values()) == counted["changed"] + counted["only_old"] + counted["only_new"]
    again = json.loads(run("diff", "chain", "--json").stdout)
    assert again | {"seconds": 0} == said | {"seconds": 0}
    shown = run("diff", "chain")
    assert shown.exit_code == 1
    assert f"{said['outputs']['AnomalyDetected']['changed']}" in shown.stdout
    assert shown.stdout.rstrip().endswith("outputs differ")
    assert run("diff", "chain", "--since", "2000-01-01T00:00:00Z", "--json").exit_code == 1
    assert json.loads(run("diff", "chain", "--since", "0", "--json").stdout)["same"] is True


def test_there_and_back(fleet: Fleet, run: Run) -> None:
    """The way that the README tells, with what is said at each step."""
    begun(fleet)
    assert not asyncio.run(manned(fleet.settings))
    fleet.work("chain-1", "chain-2", "echo-1")
    dry = run("cut-over", "chain", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "fold chain: version 1 -> 2, 2 partitions" in dry.stdout
    assert "its state is folded anew from the log" in dry.stdout
    assert "headwater folds cut-over chain --to 1" in dry.stdout
    assert run("cut-over", "chain", input="n\n").exit_code == 1
    assert rows(run)["chain"]["in_force"] == 1

    done = run("cut-over", "chain", "--yes", "--reason", "it counts better")
    assert done.exit_code == 0, done.output
    assert asyncio.run(manned(fleet.settings))
    assert "fold chain: version 2 is in force in 2 partitions (refold)" in done.stdout
    assert "2 of 2 partitions ready" in done.stderr
    chain = rows(run)["chain"]
    assert (chain["in_force"], chain["reason"], chain["behind"]) == (2, "it counts better", [])
    assert all(place["version"] == 2 and place["since"] > 0 for place in chain["partitions"])
    assert f"signals/0@{chain['partitions'][0]['since']} (2, refold)" in run("list").stdout
    topology = CliRunner().invoke(app, ["topology", "--json"])
    in_force = {row["fold"]: row["in_force"] for row in json.loads(topology.stdout)}
    assert (in_force["chain v1"], in_force["chain v2"], in_force["intake v1"]) == (False, True, True)

    assert "version 2 is in force already, and no newer one" in refused(run("cut-over", "chain", "--yes"))
    back = run("cut-over", "chain", "--to", "1", "--at-once", "--yes")
    assert back.exit_code == 0, back.output
    assert "fold chain: version 1 is in force in 2 partitions (refold)" in back.stdout
    assert rows(run)["chain"]["in_force"] == 1


def test_what_cannot_be_done_or_compared(run: Run) -> None:
    """Each is one line and what to do; of a comparison exit code 2 tells trouble from a difference."""
    for arguments, says in (
        (["cut-over", "nonsense", "--yes"], "there is no fold nonsense"),
        (["cut-over", "chain", "--to", "9", "--yes"], "version 9 is not installed here, there are: 1, 2"),
        (["cut-over", "chain", "--timeout", "soon"], "--timeout soon: not a duration"),
        (["cut-over", "chain", "--cancel"], "no cut-over is under way"),
        (["cut-over", "nonsense", "--cancel"], "there is no fold nonsense"),
    ):
        assert says in refused(run(*arguments))
    for arguments, says in (
        (["diff", "nonsense"], "there is no fold nonsense"),
        (["diff", "chain", "--candidate", "9"], "has never run on this log"),
        (["diff", "chain", "--since", "yesterday"], "--since yesterday: not a time"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert says in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [["cut-over"], ["cut-over", "chain", "--to", "0"], ["diff", "chain", "--candidate", "x"], ["no"]],
)
def test_what_is_not_understood(arguments: list[str]) -> None:
    """Wrong usage ends with code 2 before anything is asked."""
    assert CliRunner().invoke(app, ["folds", *arguments]).exit_code == 2


ASKS = """
import asyncio
from streams.cli.folds import _confirmed
async def ask():
    await asyncio.sleep(0)
    print("answered", _confirmed(), flush=True)
asyncio.run(ask())
"""


def test_no_by_ctrl_c() -> None:
    """At the question one Ctrl-C is enough."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", ASKS])
    shown = b""
    try:
        while b"Do it?" not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        deadline = time.monotonic() + 20
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < deadline, shown
            time.sleep(0.05)
        assert ended[1] != 0
        assert b"answered" not in shown
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.close(terminal)


def test_kafka_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command says so within seconds; `diff` with its own code."""
    monkeypatch.setenv("HEADWATER_DATA", str(tmp_path))
    monkeypatch.setenv("HEADWATER_PORT", str(free_base_port()))
    for arguments, code in ((["list"], 1), (["diff", "anomaly"], 2), (["cut-over", "anomaly", "--yes"], 1)):
        result = CliRunner().invoke(app, ["folds", *arguments])
        assert result.exit_code == code, result.output
        assert "nobody listens at" in result.stderr


def test_a_cut_over_under_way(fleet: Fleet, run: Run) -> None:
    """While one waits for its workers, another is refused, the list says so, and it can be given up."""
    worker = fleet.work("chain-1", "echo-1")
    asyncio.run(produce(fleet.settings, signals(0, 50), per_second=1e9))
    asyncio.run(settled(fleet.settings))
    # The worker lacks version 2, so nothing is ready: the command waits.
    waiting = fleet.command("folds", "cut-over", "chain", "--to", "2", "--yes", names=("chain-1", "chain-2"))
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == "0 of 2 partitions ready\n"
    row = rows(run)["chain"]
    assert (row["in_force"], row["proposed"]) == (1, 2)
    assert row["proposed_at"] is not None
    assert f"to version 2, proposed {row['proposed_at']} by " in run("list").stdout
    assert "joins: the one proposed by" in run("cut-over", "chain", "--dry-run").stdout
    given_up = run("cut-over", "chain", "--cancel")
    assert given_up.exit_code == 0, given_up.output
    assert "the cut-over to version 2 is given up" in given_up.stdout
    assert rows(run)["chain"]["proposed"] is None
    waiting.terminate()
    waiting.wait(30)
    assert worker.poll() is None, "and the worker worked on"
    assert "fold.version_not_installed" in fleet.said()
