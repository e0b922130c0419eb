"""The doctor finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from pydantic import SecretStr

from streams.admin import TopicSpec, declared, ensure_topics
from streams.doctor import Finding, examine_machine, instance, machine
from streams.doctor.kafka import kafka
from streams.settings import Settings
from streams.supervision.instance import instance_lock
from streams.supervision.status import ProcessStatus
from tests.conftest import free_base_port
from tests.postgres import Cluster


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An instance of its own."""
    return Settings(data=tmp_path / "data", port=free_base_port())


def only(found: list[Finding], level: str) -> Finding:
    """The one finding of a level."""
    (one,) = [f for f in found if f.level == level]
    return one


def test_a_fresh_machine_is_well(settings: Settings) -> None:
    """Before the first start nothing fails, and the data folder is not made by looking."""
    found = examine_machine(settings)
    assert [f for f in found if f.level == "fail"] == []
    assert {"python", "disk", "memory", "lock", "java", "kafka jars", "api key"} <= {f.check for f in found}
    assert not settings.data.exists()


def test_a_mistyped_variable_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEADWATER_PROT is no setting; the known ones are named."""
    monkeypatch.setenv("HEADWATER_PROT", "7100")
    wrong = only(machine.variables(settings), "warn")
    assert "HEADWATER_PROT" in wrong.says
    assert "port" in wrong.do


def test_a_mistyped_line_of_the_file_is_found(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is an unknown name in headwater.toml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headwater.toml").write_text("partitons = 4\n")
    assert "partitons in headwater.toml" in only(machine.variables(settings), "warn").says


def test_a_taken_port_is_found_with_its_user(settings: Settings) -> None:
    """A port in use by another process fails; one of our own processes' does not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.port))
        taken.listen()
        wrong = only(instance.doors(settings), "fail")
        assert f"port {settings.port}" in wrong.check
        assert f"pid {os.getpid()}" in wrong.says
        ProcessStatus(settings, "serve").set("running")
        assert all(f.level == "ok" for f in instance.doors(settings))


def test_a_stale_lock_is_no_problem_and_is_told(settings: Settings) -> None:
    """A lock file without a holder is said to be stale; a held one names its holder."""
    settings.data.mkdir()
    (settings.data / "up.lock").write_text("999999")
    (stale,) = instance.lock(settings)
    assert stale.level == "ok"
    assert "stale" in stale.says
    lock = instance_lock(settings)
    lock.take()
    (held,) = instance.lock(settings)
    assert f"pid {os.getpid()}" in held.says
    lock.release()


def test_a_key_that_others_can_read_fails(settings: Settings) -> None:
    """The API key file has to be its owner's alone; the mode is said, and the command that mends it."""
    settings.data.mkdir()
    path = settings.data / "api-key"
    path.write_text("k" * 43)
    path.chmod(0o644)
    wrong = only(instance.api_key(settings), "fail")
    assert "0644" in wrong.says
    assert f"chmod 600 {path}" in wrong.do
    path.chmod(0o600)
    assert instance.api_key(settings)[0].level == "ok"
    given = settings.model_copy(update={"api_key": SecretStr("k" * 43)})
    assert "HEADWATER_API_KEY" in instance.api_key(given)[0].says


def test_a_broken_database_fails(settings: Settings) -> None:
    """A file that is no database, and a server that is not there, are told apart from a healthy one."""
    settings.data.mkdir()
    path = settings.data / "views.sqlite"
    path.write_bytes(b"no database at all" * 100)
    assert "made anew from the log" in only(instance.database(settings), "fail").do
    path.write_bytes(b"")
    assert instance.database(settings)[0].level == "ok"
    server = Settings(data=settings.data, database="postgresql+nodriver://me:secret@127.0.0.1/x")
    wrong = only(instance.database(server), "fail")
    assert "secret" not in wrong.says


def test_a_postgresql_is_looked_at(settings: Settings, postgres: Cluster) -> None:
    """One that is well is shown with its version; a wrong password and a server that is down say what to do."""
    for url, level, says, do in (
        (postgres.url(), "ok", f"PostgreSQL {postgres.version}", ""),
        (postgres.url(password="not-this"), "fail", "refuses the user or password", "HEADWATER_DATABASE"),
        (postgres.url(port=free_base_port()), "fail", "refused", "start it"),
    ):
        found = only(instance.database(settings.model_copy(update={"database": url})), level)
        assert says in found.says
        assert do in found.do
        assert "not-this" not in str(found)


def test_little_disk_and_memory_warn_then_fail(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are those of a log that is kept for ever and of all processes together."""
    settings.data.mkdir()
    for free, disk_level, memory_level in ((100, "ok", "ok"), (1.2, "warn", "warn"), (0.4, "fail", "fail")):
        size = int(free * machine.GIB)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, s=size: SimpleNamespace(free=s))
        monkeypatch.setattr(psutil, "virtual_memory", lambda s=size: SimpleNamespace(available=s))
        found = machine.disk(settings)[0]
        assert found.level == disk_level
        assert "0.5 GiB are kept in reserve" in found.says
        assert ("new events are refused" in found.says) == (disk_level == "fail")
        assert machine.memory(settings)[0].level == memory_level


def test_failed_and_dead_processes_are_found(settings: Settings) -> None:
    """A process that failed is named with its reason and its log."""
    status = ProcessStatus(settings, "folds")
    status.set("failed", error="no topics")
    wrong = only(instance.processes(settings), "fail")
    assert "no topics" in wrong.says
    assert "folds.log" in wrong.do


def test_a_cluster_that_does_not_answer_fails(settings: Settings) -> None:
    """One's own cluster has to be there; an embedded broker may be stopped."""
    (stopped,) = asyncio.run(kafka(settings))
    assert stopped.level == "ok"
    own = Settings(data=settings.data, kafka=f"127.0.0.1:{settings.port + 1}")
    (away,) = asyncio.run(kafka(own))
    assert away.level == "fail"
    assert "HEADWATER_KAFKA" in away.do


def test_topics_are_compared_with_what_is_declared(broker: Settings) -> None:
    """All is well on a broker with the declared topics; other counts and missing topics fail."""
    own = broker.model_copy(update={"kafka": broker.bootstrap})
    assert [f.level for f in asyncio.run(kafka(own))] == ["ok", "ok"]
    found = asyncio.run(kafka(own.model_copy(update={"namespace": "elsewhere"})))
    assert any("topic signals is missing" in f.says and f.level == "fail" for f in found)
    assert all("topics create" in f.do for f in found if f.level == "fail")
    other = own.model_copy(update={"partitions": 3})
    assert any("partitions" in f.says and f.level == "fail" for f in asyncio.run(kafka(other)))


def test_fewer_copies_than_meant_warn(broker: Settings) -> None:
    """A topic that one broker keeps, where two are wanted, is named."""
    own = broker.model_copy(update={"kafka": broker.bootstrap, "replication": 2})
    found = asyncio.run(kafka(own))
    assert {f.level for f in found if f.check == "topics"} == {"warn"}
    assert any("topic signals is kept by 1 brokers, not by 2" in f.says for f in found)


def test_another_retention_warns(broker: Settings) -> None:
    """A topic whose configuration is other than declared is named with the command that mends it."""
    wanted = Settings(
        data=broker.data,
        port=broker.port,
        kafka=broker.bootstrap,
        namespace="doctor",
        raw_partitions=1,
        partitions=1,
    )
    specs = declared(wanted)
    changed = [
        TopicSpec(s.name, s.partitions, s.config | {"retention.ms": "1000"}) if s.name == "agent.runs" else s
        for s in specs
    ]
    asyncio.run(ensure_topics(wanted, changed))
    wrong = only(asyncio.run(kafka(wanted)), "warn")
    assert "agent.runs has retention.ms=1000" in wrong.says
    assert "kafka-configs" in wrong.do
