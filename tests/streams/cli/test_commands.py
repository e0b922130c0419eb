"""The command line: what it prints, how it ends, and that errors are lines, not tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from schemas.envelope import parse_time
from streams.cli import app
from streams.keys.uses import Uses
from streams.settings import Settings
from streams.supervision.status import ProcessStatus
from tests.conftest import free_base_port

COMMANDS = [
    *(
        "up",
        "broker",
        "folds",
        "reactors",
        "fleet",
        "views",
        "serve",
        "simulate",
        "status",
        "doctor",
        "produce",
        "tail",
        "replay",
    ),
    *("topics", "schemas", "topology", "new", "keys", "quotas", "dead-letters"),
]


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A command line with a data folder and ports of its own, nothing running."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWATER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HEADWATER_PORT", str(free_base_port()))
    monkeypatch.delenv("HEADWATER_LOG_LEVEL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return CliRunner()


def test_help_names_every_command_and_is_quick() -> None:
    """`headwater --help` in a process of its own: all commands, without loading Kafka, river or FastAPI."""
    code = (
        "import sys; from streams.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'aiokafka', 'river', 'fastapi', 'pydantic', 'sqlalchemy'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, "--help"]
    began = os.times().children_user
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert os.times().children_user - began < 0.5
    assert run.stdout.rstrip().endswith("[]")
    for command_name in COMMANDS:
        assert f" {command_name} " in run.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(runner: CliRunner, command: str) -> None:
    """Each explains itself."""
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["up", "--agents", "0"], ["topics", "nonsense"], ["replay"]]
)
def test_what_is_not_understood_ends_with_2(runner: CliRunner, arguments: list[str]) -> None:
    """Usage errors have a code of their own."""
    assert runner.invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADWATER_PORT", "high"),
        ("HEADWATER_PORT", "80"),
        ("HEADWATER_NAMESPACE", "a b"),
        ("HEADWATER_PARTITIONS", "0"),
    ],
)
def test_a_wrong_setting_is_named(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """The variable, what is wrong with it and its value, on stderr, with code 1 and no traceback."""
    monkeypatch.setenv(variable, value)
    result = runner.invoke(app, ["status"])
    assert result.exit_code == 1
    assert variable in result.stderr
    assert value in result.stderr
    assert len(result.stderr.splitlines()) == 2
    assert "Traceback" not in result.stderr


def test_a_wrong_registry_is_named_and_its_password_not_shown(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that is none may hold a password: the variable and what is expected are said, not its value."""
    monkeypatch.setenv("HEADWATER_REGISTRY", "me:s3cret@registry:8081")
    result = runner.invoke(app, ["status"])
    assert result.exit_code == 1
    assert "HEADWATER_REGISTRY: expected http(s)://" in result.stderr
    assert "s3cret" not in result.stderr


def test_schemas_are_registered_in_a_registry_alone(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without HEADWATER_REGISTRY there is nowhere to register; said, with what to set."""
    monkeypatch.setenv("HEADWATER_DATA", str(tmp_path))
    result = runner.invoke(app, ["schemas", "register"])
    assert result.exit_code == 1
    assert "HEADWATER_REGISTRY is not set" in result.stderr


def test_a_wrong_secret_is_named_and_not_shown(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting's value is not quoted where it may be a secret."""
    monkeypatch.setattr("streams.settings.Settings.model_config", Settings.model_config | {"extra": "forbid"})
    from streams.settings import _shown

    assert _shown("api_key", "hidden-value") == ""
    assert "8x" in _shown("port", "8x")


def test_a_broken_settings_file_is_named(runner: CliRunner, tmp_path: Path) -> None:
    """headwater.toml that is no TOML is a clear error."""
    (tmp_path / "headwater.toml").write_text("port = = 7")
    result = runner.invoke(app, ["status"])
    assert result.exit_code == 1
    assert "headwater.toml" in result.stderr


def test_debug_shows_the_traceback(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """With HEADWATER_LOG_LEVEL=DEBUG the error itself comes through."""
    monkeypatch.setenv("HEADWATER_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("HEADWATER_PORT", "high")
    result = runner.invoke(app, ["status"])
    assert type(result.exception).__name__ == "ConfigurationError"


def test_status_says_when_nothing_runs(runner: CliRunner, tmp_path: Path) -> None:
    """In words with what to do, in JSON with `running` false; both with code 3."""
    result = runner.invoke(app, ["status"])
    assert result.exit_code == 3
    assert "Nothing runs here" in result.stdout
    result = runner.invoke(app, ["status", "--json"])
    assert result.exit_code == 3
    said = json.loads(result.stdout)
    assert said["running"] is False
    assert said["kafka"]["reachable"] is False
    assert said["ports"]["kafka"] == said["ports"]["api"] + 92
    assert not (tmp_path / "data").exists()


def test_status_shows_what_processes_say(runner: CliRunner, tmp_path: Path) -> None:
    """Counts and lags are those of the status files."""
    status = ProcessStatus(Settings(data=tmp_path / "data"), "folds")
    status.set(
        "running",
        folds={
            "intake": {"events": 10, "outputs": 12, "lag": 3, "dead_letters": 1, "us_per_event": 20.5},
            "anomaly": {"events": 12, "outputs": 2, "lag": 4, "dead_letters": 0, "us_per_event": 30.0},
        },
    )
    result = runner.invoke(app, ["status", "--json"])
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said["counts"] == {"events": 10, "outputs": 14, "dead_letters": 1}
    assert said["lag"]["folds"] == {"anomaly": 4, "intake": 3}
    assert said["lag"]["folds_total"] == 7
    assert said["processes"]["folds"]["pid"] == os.getpid()
    assert said["processes"]["folds"]["pss_bytes"] > 1e6
    assert "intake" in runner.invoke(app, ["status"]).stdout


def test_doctor_ends_with_1_where_something_fails(runner: CliRunner, tmp_path: Path) -> None:
    """All well is 0; a failure is 1, in words and in JSON, with what to do."""
    assert runner.invoke(app, ["doctor"]).exit_code == 0
    key = tmp_path / "data" / "api-key"
    key.parent.mkdir()
    key.write_text("k" * 43)
    key.chmod(0o666)
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "chmod 600" in result.stdout
    report = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert report["ok"] is False
    assert {"check", "level", "says", "do"} == report["findings"][0].keys()


def test_schemas_are_listed_shown_and_checked(runner: CliRunner) -> None:
    """By name, by id, and an unknown one is an error with a hint."""
    rows = json.loads(runner.invoke(app, ["schemas", "list", "--json"]).stdout)
    assert {"event", "subject", "version", "id"} == rows[0].keys()
    by_name = json.loads(runner.invoke(app, ["schemas", "show", rows[0]["event"]]).stdout)
    by_id = json.loads(runner.invoke(app, ["schemas", "show", str(rows[0]["id"])]).stdout)
    assert by_name["name"] == by_id["name"] == rows[0]["event"]
    wrong = runner.invoke(app, ["schemas", "show", "Nothing"])
    assert wrong.exit_code == 1
    assert "schemas list" in wrong.stderr
    assert runner.invoke(app, ["schemas", "show", "99999"]).exit_code == 1
    assert runner.invoke(app, ["schemas", "check"]).exit_code == 0


def test_topology_is_that_of_the_catalog(runner: CliRunner) -> None:
    """Each fold with what it reads and writes."""
    rows = {
        row["fold"].split()[0]: row for row in json.loads(runner.invoke(app, ["topology", "--json"]).stdout)
    }
    assert rows["intake"]["writes"] == ["signals: Signal"]
    assert rows["intake"]["state"] is None
    assert rows["anomaly"]["reads"] == ["signals"]
    assert "intake" in runner.invoke(app, ["topology"]).stdout


def test_topics_are_listed_without_a_broker(runner: CliRunner) -> None:
    """What is declared is known; what Kafka has is not."""
    rows = json.loads(runner.invoke(app, ["topics", "list", "--json"]).stdout)
    signals = next(row for row in rows if row["topic"] == "signals")
    assert signals["partitions"] == 8
    assert signals["in_kafka"] is None
    assert "not reachable" in runner.invoke(app, ["topics", "list"]).stdout


def test_keys_are_made_listed_and_revoked(runner: CliRunner) -> None:
    """A key is shown once; the list has everything but the key; a revoked one is gone."""
    key = runner.invoke(app, ["keys", "create", "ci", "--project", "p1", "--scope", "read"]).stdout.strip()
    assert key.startswith("hw_")
    listed = runner.invoke(app, ["keys", "list", "--json"]).stdout
    assert key not in listed
    (row,) = json.loads(listed)
    assert (row["name"], row["project"], row["scopes"]) == ("ci", "p1", ["read"])
    assert runner.invoke(app, ["keys", "revoke", row["id"]]).exit_code == 0
    assert json.loads(runner.invoke(app, ["keys", "list", "--json"]).stdout) == []
    assert runner.invoke(app, ["keys", "revoke", row["id"]]).exit_code == 1


def keys(runner: CliRunner) -> list[dict[str, Any]]:
    """What `keys list --json` says."""
    rows: list[dict[str, Any]] = json.loads(runner.invoke(app, ["keys", "list", "--json"]).stdout)
    return rows


def test_a_keys_life(runner: CliRunner, tmp_path: Path) -> None:
    """Made with an end and a quota, rotated, limited, shown with its state and its last use."""
    quota = ["--events-per-second", "50", "--burst", "80", "--bytes-per-second", "1000"]
    made = runner.invoke(
        app, ["keys", "create", "ci", "--scope", "produce:agent.metrics", "--expires", "3d", *quota]
    )
    first = made.stdout.strip()
    (row,) = keys(runner)
    assert row["id"] == first.split("_")[1]
    assert (row["scopes"], row["state"], row["last_used"]) == (
        ["produce:agent.metrics"],
        "expires soon",
        None,
    )
    assert row["quota"] == {"events_per_second": 50, "burst": 80, "bytes_per_second": 1000}
    left = parse_time(row["expires"]) - time.time()
    assert 2.9 * 86_400 < left < 3 * 86_400

    rotated = runner.invoke(app, ["keys", "rotate", row["id"], "--overlap", "2h", "--expires", "2099-01-01"])
    second = rotated.stdout.strip()
    assert second.startswith(f"hw_{row['id']}_")
    assert second != first
    assert "the old secret" in rotated.stderr
    (row,) = keys(runner)
    assert (row["state"], row["expires"]) == ("rotating", "2099-01-01T00:00:00Z")
    assert 7_100 < parse_time(row["rotating_until"]) - time.time() < 7_201

    limited = runner.invoke(app, ["keys", "limit", row["id"], "--events-per-second", "0"])
    assert "0 events per second" in limited.stdout
    assert keys(runner)[0]["quota"] == {"events_per_second": 0, "burst": None, "bytes_per_second": None}

    uses = Uses(Settings(data=tmp_path / "data"))
    uses.note(row["id"], "POST /v1/events")
    uses.flush()
    (row,) = keys(runner)
    assert row["last_used_at"] == "POST /v1/events"
    assert abs(parse_time(row["last_used"]) - time.time()) < 60
    shown = runner.invoke(app, ["keys", "list"]).stdout
    assert "POST /v1/events" in shown
    assert "rotating until" in shown
    assert "a minute ago" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "x", "--scope", "produce:signals"], "no such raw topic"),
        (["create", "x", "--expires", "tomorrow"], "--expires tomorrow: not a time"),
        (["create", "x", "--expires", "2001-01-01"], "expired at"),
        (["create", "x", "--events-per-second", "-1"], "no limit"),
        (["rotate", "none"], "keys list"),
        (["rotate", "none", "--overlap", "soon"], "not a duration"),
        (["limit", "none"], "keys list"),
    ],
)
def test_what_keys_are_not(runner: CliRunner, arguments: list[str], says: str) -> None:
    """What makes no sense is an error with what to do, and makes no key."""
    result = runner.invoke(app, ["keys", *arguments])
    assert result.exit_code == 1
    assert says in result.stderr
    assert keys(runner) == []


def test_quotas_of_projects(runner: CliRunner) -> None:
    """Set, listed, removed; one that limits nothing is refused."""
    assert "no project has a quota" in runner.invoke(app, ["quotas", "list"]).stdout
    assert runner.invoke(app, ["quotas", "set", "acme"]).exit_code == 1
    assert runner.invoke(app, ["quotas", "set", "acme", "--events-per-second", "500"]).exit_code == 0
    rows = json.loads(runner.invoke(app, ["quotas", "list", "--json"]).stdout)
    assert rows == [{"project": "acme", "events_per_second": 500, "burst": None, "bytes_per_second": None}]
    assert runner.invoke(app, ["quotas", "remove", "acme"]).exit_code == 0
    assert runner.invoke(app, ["quotas", "remove", "acme"]).exit_code == 1


def test_a_cluster_of_ones_own_has_no_broker_here(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """`headwater broker` with HEADWATER_KAFKA set says so."""
    monkeypatch.setenv("HEADWATER_KAFKA", "kafka:9092")
    result = subprocess.run(
        [sys.executable, "-m", "streams", "broker"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "there is no broker to run here" in result.stderr
