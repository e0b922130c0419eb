"""Kafka with logins, TLS and rights: all works end to end, and what is wrong is said at once and once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import uvloop
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)
from typer.testing import CliRunner

from schemas import events as e
from streams.cli import app
from streams.keys import admin_key
from streams.sdk import Headwater
from streams.tail import Filters, Range, tail
from tests.conftest import free_base_port
from tests.streams.certificates import Authority
from tests.streams.cluster import Cluster, free_ports
from tests.streams.deployment import Deployment, settings_of
from tests.streams.instances import Instance, until

PASSWORD = 'pass "word" \\ with, all=sorts'
LISTENERS = {
    "PLAINTEXT": "PLAINTEXT",
    "SSL": "SSL",
    "MTLS": "SSL",
    "SASL_SSL": "SASL_SSL",
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
}
RIGHTS = {
    ResourceType.TOPIC: ("CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "READ", "WRITE"),
    ResourceType.GROUP: ("READ",),
    ResourceType.TRANSACTIONAL_ID: ("WRITE",),
}
"""What docs/cluster.md says that Headwater needs."""
SOON_S = 20.0
"""A command that cannot reach Kafka has said so by then, also on a busy machine."""
COMMANDS = (["doctor"], ["topics", "create"], ["tail", "--no-follow"])
METRIC = {"component": "tool:up", "name": "latency_ms", "value": 1.0}


class Secured(NamedTuple):
    """A node with a listener of each kind.

    alice and carol may use what begins with `team.`, dora its topics alone, bob nothing.
    """

    cluster: Cluster
    authority: Authority
    stranger: Authority
    admin: AdminClient

    def environment(self, listener: str, host: str = "localhost", **more: str) -> dict[str, str]:
        """What a user sets for a listener; keywords are more of HEADWATER_KAFKA_…, or other values."""
        security = LISTENERS[listener]
        values = {"SECURITY": security}
        if security.endswith("SSL"):
            values["CA"] = str(self.authority.path)
        if security.startswith("SASL"):
            values |= {"USERNAME": "alice", "PASSWORD": PASSWORD}
        values |= more
        return {
            "HEADWATER_KAFKA": self.cluster.bootstrap(listener, host),
            "HEADWATER_NAMESPACE": "team",
        } | {f"HEADWATER_KAFKA_{name}": value for name, value in values.items() if value}


def jaas(module: str, **options: str) -> str:
    """A line of Kafka's configuration of logins, in a properties file."""
    quoted = {k: v.replace("\\", "\\\\").replace('"', '\\"') for k, v in options.items()}
    line = f"org.apache.kafka.common.security.{module} required" + "".join(
        f' {k}="{v}"' for k, v in quoted.items()
    )
    return line.replace("\\", "\\\\") + ";"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A running node."""
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder / "ca")
    server = authority.issue("server", "localhost")
    settings: dict[str, object] = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": server.both,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": authority.path,
        "listener.name.mtls.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # Whoever comes without a login is the cluster's own administrator here.
        "super.users": "User:ANONYMOUS",
        "listener.name.mtls.ssl.principal.mapping.rules": "RULE:^.+$/alice/",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "SCRAM-SHA-512",
    }
    for listener in ("sasl_ssl", "sasl_plaintext"):
        name = f"listener.name.{listener}"
        settings[f"{name}.plain.sasl.jaas.config"] = jaas("plain.PlainLoginModule", user_alice=PASSWORD)
        for mechanism in ("scram-sha-512", "scram-sha-256"):
            settings[f"{name}.{mechanism}.sasl.jaas.config"] = jaas("scram.ScramLoginModule")
    cluster = Cluster(folder / "kafka", nodes=1, listeners=LISTENERS, settings=settings, host="localhost")
    asyncio.run(cluster.start())
    try:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap("PLAINTEXT")})
        add_users(admin)
        grant_as_documented(folder, cluster)
        yield Secured(cluster, authority, Authority(folder / "stranger"), admin)
    finally:
        asyncio.run(cluster.stop())


def add_users(admin: AdminClient) -> None:
    """Users with SCRAM passwords, and their rights."""
    for mechanism in (ScramMechanism.SCRAM_SHA_512, ScramMechanism.SCRAM_SHA_256):
        how = ScramCredentialInfo(mechanism, 4096)
        users: list[UserScramCredentialAlteration] = [
            UserScramCredentialUpsertion(user, how, PASSWORD.encode())
            for user in ("alice", "bob", "carol", "dora")
        ]
        for changed in admin.alter_user_scram_credentials(users).values():
            changed.result()
    bindings = [
        AclBinding(
            kind, "team.", ResourcePatternType.PREFIXED, f"User:{user}", "*",
            AclOperation[right], AclPermissionType.ALLOW,
        )
        for user, kinds in (("carol", RIGHTS), ("dora", [ResourceType.TOPIC]))
        for kind in kinds
        for right in RIGHTS[kind]
    ]  # fmt: skip
    for done in admin.create_acls(bindings).values():
        done.result()


def grant_as_documented(folder: Path, cluster: Cluster) -> None:
    """Alice's rights by the very commands of docs/cluster.md."""
    document = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    found = re.search(r"(?s)```sh\n(grant=.*?)```", document)
    assert found is not None
    commands = found[1].replace("User:headwater", "User:alice").replace("team-a.", "team.")
    commands = commands.replace("headwater kafka-tools", f"{sys.executable} -m streams kafka-tools")
    subprocess.run(
        ["/bin/sh", "-e", "-c", commands],
        env=os.environ
        | {"HEADWATER_KAFKA": cluster.bootstrap("PLAINTEXT"), "HEADWATER_DATA": str(folder / "operator")},
        check=True,
    )


@pytest.fixture(scope="module")
def deployment(secured: Secured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Headwater on it by SASL and TLS, as alice: topics, folds, views and the API."""
    port = str(free_base_port())
    environment = secured.environment("SASL_SSL") | {"HEADWATER_PORT": port}
    one = Deployment(tmp_path_factory.mktemp("deployment"), environment)
    created = one.run("topics", "create")
    assert created.returncode == 0, created.stderr
    assert created.stdout.startswith("created ")
    try:
        for process in ("folds", "views", "serve"):
            one.start("operator", process)
        until(lambda: all(one.running("operator", p) for p in ("folds", "views", "serve")), 60)
        yield one
    finally:
        one.stop()


@pytest.fixture
def runner(secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A command line in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWATER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HEADWATER_PORT", str(free_base_port()))
    monkeypatch.setenv("COLUMNS", "200")
    return CliRunner()


def test_an_event_goes_all_the_way(deployment: Deployment) -> None:
    """What is posted is in the view's answer that has to be as new, and every command works with a login."""
    settings = settings_of(deployment, "operator")
    headers = {"Authorization": f"Bearer {admin_key(settings)}"}
    with httpx.Client(base_url=settings.api_url, headers=headers, timeout=30) as http:
        posted = http.post("/v1/events", json={"type": "MetricReported", "data": METRIC})
        assert posted.status_code == 200, posted.text
        at = {"at_least": posted.json()["position"]}
        answer = http.get("/v1/components/tool:up", params=at)
        assert answer.status_code == 200, answer.text
        assert answer.json()["signals"] == 1
    written = deployment.run("produce", "MetricReported", "--data", json.dumps(METRIC))
    assert written.returncode == 0, written.stderr
    shown = deployment.run("tail", "agent.metrics", "--json", "--no-follow")
    assert [json.loads(line)["data"]["value"] for line in shown.stdout.splitlines()] == [1.0, 1.0]
    listed = deployment.run("dead-letters", "list")
    assert (listed.returncode, listed.stdout.strip()) == (0, "no dead letters")
    doctor = json.loads(deployment.run("doctor", "--json").stdout)
    assert [f for f in doctor["findings"] if f["level"] == "fail"] == []
    assert any("SASL_SSL as alice" in f["says"] for f in doctor["findings"])
    status = json.loads(deployment.run("status", "--json").stdout)
    assert status["kafka"]["reachable"]


@pytest.mark.parametrize(
    ("listener", "more"),
    [
        ("SASL_SSL", {}),
        ("SASL_SSL", {"MECHANISM": "SCRAM-SHA-256"}),
        ("SASL_SSL", {"MECHANISM": "PLAIN"}),
        ("SASL_PLAINTEXT", {}),
        ("SSL", {}),
        ("MTLS", {"CERT": "cert", "KEY": "key"}),
        ("MTLS", {"CERT": "both"}),
    ],
)
async def test_every_way_in(
    deployment: Deployment, secured: Secured, tmp_path: Path, listener: str, more: dict[str, str]
) -> None:
    """The SDK writes, and a reader sees it, by each kind of login and certificate."""
    issued = secured.authority.issue(f"client-{listener}-{len(more)}", "client")
    more = {name: str(getattr(issued, value, value)) for name, value in more.items()}
    way = Deployment(tmp_path, secured.environment(listener, **more))
    settings = settings_of(way, "operator")
    name = f"c-{time.monotonic_ns()}"
    async with Headwater(settings) as hw:
        await hw.metric(name, "n", 1.0)
    seen = tail(settings, ["agent.metrics"], Filters(), Range(follow=False), asyncio.Event())
    events = [shown.decoded.event async for shown in seen if shown.decoded is not None]
    assert name in {event.component for event in events if isinstance(event, e.MetricReported)}


def test_a_reader_is_done_as_soon_as_without_tls(deployment: Deployment) -> None:
    """On uvloop closing a TLS connection with an answer under way took half a minute: each restore would."""
    settings = settings_of(deployment, "operator")

    async def read() -> int:
        where = Range(follow=False)
        return len([_ async for _ in tail(settings, ["agent.metrics"], Filters(), where, asyncio.Event())])

    assert deployment.run("produce", "MetricReported", "--data", json.dumps(METRIC)).returncode == 0
    for _ in range(4):
        began = time.monotonic()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(read()) > 0
        assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize(("listener", "more"), [("SASL_SSL", {}), ("MTLS", {"CERT": "both"})])
def test_kafkas_own_tools_get_in(
    secured: Secured, deployment: Deployment, tmp_path: Path, listener: str, more: dict[str, str]
) -> None:
    """`headwater kafka-tools` gives them the login and the certificates; the password is in no argument."""
    issued = secured.authority.issue(f"tools-{listener}", "client")
    more = {name: str(getattr(issued, value)) for name, value in more.items()}
    way = Deployment(tmp_path, secured.environment(listener, **more))
    run = way.run("kafka-tools", "topics", "--list")
    assert run.returncode == 0, run.stderr
    assert "team.signals" in run.stdout.split()


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts connections and never says a word."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        yield f"127.0.0.1:{s.getsockname()[1]}"


OBSTACLES = {
    "a wrong password": ("SASL_SSL", {"PASSWORD": "wrong"}, "refused the login of user alice"),
    "an unknown user": ("SASL_SSL", {"USERNAME": "mallory"}, "refused the login of user mallory"),
    "a wrong password by PLAIN": (
        "SASL_SSL", {"PASSWORD": "wrong", "MECHANISM": "PLAIN"}, "refused the login of user alice by PLAIN",
    ),
    "a login without TLS": ("SASL_PLAINTEXT", {"PASSWORD": "wrong"}, "refused the login"),
    "a mechanism that is not there": (
        "SASL_PLAINTEXT", {"MECHANISM": "PLAIN"}, "takes no login by PLAIN",
    ),
    "a CA of other people": ("SASL_SSL", {"CA": "<stranger>"}, "is not trusted"),
    "the system's CAs": ("SSL", {"CA": ""}, "is not trusted"),
    "another host's certificate": ("SASL_SSL", {"": "127.0.0.1"}, "is another host's"),
    "TLS where there is none": ("PLAINTEXT", {"SECURITY": "SSL", "CA": "<own>"}, "speaks no TLS"),
    "TLS with a login where there is none": (
        "SASL_PLAINTEXT", {"SECURITY": "SASL_SSL", "CA": "<own>"}, "speaks no TLS",
    ),
    "no TLS where there is": ("SSL", {"SECURITY": "PLAINTEXT", "CA": ""}, "speaks TLS"),
    "no TLS but a login where there is": (
        "SASL_SSL", {"SECURITY": "SASL_PLAINTEXT", "CA": ""}, "speaks TLS",
    ),
    "no login where one is wanted": (
        "SASL_PLAINTEXT", {"SECURITY": "PLAINTEXT", "USERNAME": "", "PASSWORD": ""},
        "wants a login (SCRAM-SHA-512)",
    ),
    "a login where none is taken": (
        "PLAINTEXT", {"SECURITY": "SASL_PLAINTEXT", "USERNAME": "alice", "PASSWORD": PASSWORD},
        "takes no login",
    ),
    "no certificate where one is wanted": ("MTLS", {}, "refuses our side of TLS"),
    "a certificate of other people": ("MTLS", {"CERT": "<stranger>"}, "refuses our side of TLS"),
    "a host that is not known": ("<kafka.invalid:9092>", {}, "the host kafka.invalid is not known"),
    "a port where nobody listens": ("<nobody>", {}, "nobody listens at 127.0.0.1:"),
    "an address that never answers": ("<silent>", {}, "did not answer within 3 s"),
}  # fmt: skip


def obstacle(secured: Secured, name: str, silent: str) -> tuple[dict[str, str], str]:
    """The environment of a case, and what has to be said."""
    listener, more, says = OBSTACLES[name]
    if listener.startswith("<"):
        places = {"<nobody>": f"127.0.0.1:{free_ports(1)[0]}", "<silent>": silent}
        return {"HEADWATER_KAFKA": places.get(listener, listener.strip("<>"))}, says
    more = dict(more)
    host = more.pop("", "localhost")
    if more.get("CERT") == "<stranger>":
        more["CERT"] = str(secured.stranger.issue("client", "client").both)
    authorities = {"<own>": secured.authority, "<stranger>": secured.stranger}
    if more.get("CA") in authorities:
        more["CA"] = str(authorities[more["CA"]].path)
    return secured.environment(listener, host, **more), says


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_stands_in_the_way_is_said_at_once(
    secured: Secured, runner: CliRunner, monkeypatch: pytest.MonkeyPatch, silent: str, name: str
) -> None:
    """By each command in one error with what to do, soon, without a traceback and without the password."""
    environment, says = obstacle(secured, name, silent)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    for command in COMMANDS:
        began = time.monotonic()
        result = runner.invoke(app, command)
        assert time.monotonic() - began < SOON_S, command
        assert result.exit_code == 1, (command, result.output)
        if command == ["doctor"]:
            lines = result.stdout.splitlines()
            first = next(n for n, line in enumerate(lines) if line.startswith("fail kafka: "))
            error = lines[first : first + 2]
            assert sum(line.startswith("fail") for line in lines) == 1, result.stdout
            assert result.stderr == ""
        else:
            error = result.stderr.splitlines()
            assert error[0].startswith("error: ")
        assert len(error) == 2, result.output
        assert says in error[0], (command, error)
        assert len(error[1].strip()) > 10, error
        for secret in (PASSWORD, "wrong", "Traceback"):
            assert secret not in result.output.replace("wrong password", "")


def test_a_command_of_its_own_says_no_more(deployment: Deployment) -> None:
    """In a process of its own, too, there are two lines: no log of a library's before them."""
    run = deployment.run("tail", HEADWATER_KAFKA_PASSWORD="wrong")
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 2, run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize("process", ["folds", "views", "reactors"])
def test_a_refused_process_ends_with_the_reason(deployment: Deployment, tmp_path: Path, process: str) -> None:
    """It does not try on for ever: the reason is its last word, in its log and in its status."""
    began = time.monotonic()
    more = {"HEADWATER_KAFKA_PASSWORD": "wrong", "HEADWATER_DATA": str(tmp_path)}
    run = deployment.run(process, **more)
    assert time.monotonic() - began < SOON_S
    assert run.returncode == 1
    assert "refused the login of user alice" in run.stderr.splitlines()[-2]
    assert "Traceback" not in run.stderr
    said = json.loads((tmp_path / "run" / f"{process}.json").read_text())
    assert said["state"] == "failed"
    assert "refused the login of user alice" in said["facts"]["error"]


def test_the_api_says_why_it_cannot_write(deployment: Deployment, tmp_path: Path) -> None:
    """It runs on, since it can still answer from the views, and each write gets the reason."""
    settings = settings_of(deployment, "operator").model_copy(
        update={"data": tmp_path, "port": free_base_port()}
    )
    more = {
        "HEADWATER_KAFKA_PASSWORD": "wrong",
        "HEADWATER_DATA": str(tmp_path),
        "HEADWATER_PORT": str(settings.port),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "streams", "serve"],
        env=deployment.environment("operator") | more,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            with httpx.Client(base_url=settings.api_url, timeout=30) as http:
                until(lambda: answers(http), 30)
                http.headers["Authorization"] = f"Bearer {admin_key(settings)}"
                answer = http.post("/v1/events", json={"type": "MetricReported", "data": METRIC})
        finally:
            process.terminate()
    assert answer.status_code == 503
    assert "refused the login of user alice" in answer.json()["detail"]


def answers(http: httpx.Client) -> bool:
    """Whether the API is up."""
    try:
        return http.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("command", COMMANDS)
def test_a_user_without_rights(
    secured: Secured,
    runner: CliRunner,
    monkeypatch: pytest.MonkeyPatch,
    deployment: Deployment,
    command: list[str],
) -> None:
    """Bob may log in and nothing else: he is told what is missing, or that he may not see it."""
    for variable, value in secured.environment("SASL_SSL", USERNAME="bob").items():
        monkeypatch.setenv(variable, value)
    result = runner.invoke(app, command)
    assert result.exit_code == 1, result.output
    said = result.stdout if command == ["doctor"] else result.stderr
    assert "topic" in said
    assert "docs/cluster.md" in said
    assert "Traceback" not in result.output


def test_rights_to_topics_alone_end_the_folds(deployment: Deployment, tmp_path: Path) -> None:
    """Dora may write topics, but has no right to groups and transactions: the folds end and say so."""
    more = {"HEADWATER_KAFKA_USERNAME": "dora", "HEADWATER_DATA": str(tmp_path)}
    run = deployment.run("folds", **more)
    assert run.returncode == 1
    assert "gives user dora no right to its" in run.stderr.splitlines()[-2]
    assert "Traceback" not in run.stderr


@pytest.mark.prove
def test_a_login_that_is_taken_away(secured: Secured, deployment: Deployment, tmp_path: Path) -> None:
    """Under `up`, folds that are started again and no longer let in are shown with the reason."""
    one = Instance(tmp_path / "data", free_base_port())
    one.environment |= secured.environment("SASL_SSL", USERNAME="carol")
    refused = one.environment | {"HEADWATER_KAFKA_PASSWORD": "wrong"}
    right, one.environment = one.environment, refused
    said = one.run("up", "--no-simulate", "--plain")
    assert said.returncode == 1
    assert "refused the login of user carol" in said.stderr
    one.environment = right
    try:
        one.start()
        gone: list[UserScramCredentialAlteration] = [
            UserScramCredentialDeletion("carol", ScramMechanism.SCRAM_SHA_512)
        ]
        for changed in secured.admin.alter_user_scram_credentials(gone).values():
            changed.result()
        os.kill(one.pids()["folds"], signal.SIGKILL)
        until(lambda: "folds ended with code 1" in one.said(), 30)
        assert "refused the login of user carol" in one.said()

        def is_shown() -> bool:
            status = json.loads(one.run("status", "--json").stdout)
            return "refused the login" in status["processes"]["folds"]["facts"].get("error", "")

        until(is_shown, 60)  # not in the moments in which they are started once more
    finally:
        one.end()
