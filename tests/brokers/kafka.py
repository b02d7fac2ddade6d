"""An Apache Kafka broker in KRaft mode: broker and controller in one process, its jars out of Maven."""

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ductape_conformance.proxy import free_port
from tests.brokers.maven import jars, java
from tests.brokers.server import Server, Unavailable

VERSION = "4.3.1"
_ARTIFACTS = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    f"org.apache.kafka:kafka-tools:{VERSION}",
    *(f"org.apache.logging.log4j:{name}:2.25.2" for name in ("log4j-slf4j-impl", "log4j-core", "log4j-api")),
)
_CLUSTER = "ductapeTestsCluster0AA"
"""22 characters of url-safe base64."""
# The serial collector, the first compiler and few threads: a broker for tests starts in 3 s and takes 200 MB.
_JVM = (
    *("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xss512k"),
    "-Djava.awt.headless=true",
)
_LOG4J = """rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
"""
_METADATA = b"\x00\x00\x00\x13\x00\x03\x00\x05\x00\x00\x00\x01\x00\x04test\x00\x00\x00\x00\x00"
"""Asks for the brokers, and for no topic (Metadata, version 5)."""
_PROPERTIES: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAIN",
    # Killed brokers come back in 3 s, where the defaults take 12: the old registration must have expired.
    "broker.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "250",
    "num.partitions": "1",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    # Tests wait for the sessions of dead consumers.
    "group.min.session.timeout.ms": "500",
    # The default is 128 MiB a cleaner thread.
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.segment.bytes": "16777216",
    # Index files are preallocated: 10 MiB each, for every partition of every test.
    "log.index.size.max.bytes": "65536",
    "log.segment.delete.delay.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "num.recovery.threads.per.data.dir": "1",
    "background.threads": "2",
}


class Kafka(Server):
    """One broker. It tells clients that come through its proxy the proxy's port: they stay behind it.

    Args:
        properties: Server properties that differ from ours; `listeners` are added to ours.
        listeners: Further listeners: a name of upper-case letters, and its security protocol.
        scram: Users, as `SCRAM-SHA-256=[name=alice,password=…]`, stored when the log is formatted.
    """

    name: ClassVar[str] = "kafka"
    variable: ClassVar[str] = "DUCTAPE_TEST_KAFKA"
    start_seconds: ClassVar[float] = 60.0

    def __init__(
        self,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        scram: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.properties = dict(properties or {})
        self.node, self.voters = 1, ""
        """The number of this broker, and all controllers of its cluster; empty: it is alone. See `cluster`."""
        self.controller = 0
        self.ports: dict[str, int] = {}
        """The ports of further listeners, by name."""
        self._listeners = dict(listeners or {})
        self._scram = scram
        self._java, self._jars = "", Path()
        if self.given and not self.port:
            self.host, _, port = self.given.rpartition(":")
            self.port = int(port)

    def provide(self) -> str:
        """Finds Java, and the jars in the cache, or fetches them by Maven."""
        self._java, self._jars = java(), jars(*_ARTIFACTS)
        return f"Apache Kafka {VERSION} on {self._java}"

    def prepare(self) -> None:
        """Chooses ports, writes the properties, and formats the log."""
        self.controller = self.controller or free_port()
        self.proxied = (free_port(), free_port())
        self.ports = {name: free_port() for name in self._listeners}
        properties = self._written()
        (self.folder / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in properties.items()))
        (self.folder / "log4j2.properties").write_text(_LOG4J)
        command = [*self._jvm("kafka.tools.StorageTool"), "format", "-t", _CLUSTER, "-c", "server.properties"]
        command += [] if self.voters else ["--standalone"]
        for user in self._scram:
            command += ["--add-scram", user]
        done = subprocess.run(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise Unavailable(f"kafka cannot format its log: {(done.stderr or done.stdout)[-300:].strip()}")

    def _written(self) -> dict[str, str]:
        proxied, told = self.proxied or (0, 0)
        ports = {"PLAIN": self.port, "PROXIED": proxied, **self.ports}
        protocols = {"CONTROLLER": "PLAINTEXT", "PLAIN": "PLAINTEXT", "PROXIED": "PLAINTEXT", **self._listeners}
        alone = {} if self.voters else {"controller.quorum.bootstrap.servers": f"{self.host}:{self.controller}"}
        replicas = {"offsets.topic", "transaction.state.log", "share.coordinator.state.topic"}
        one = {f"{name}.replication.factor": "1" for name in replicas} if not self.voters else {}
        one |= {f"{name}.min.isr": "1" for name in replicas - {"offsets.topic"}} if not self.voters else {}
        return {
            **_PROPERTIES,
            **one,
            **alone,
            **({"controller.quorum.voters": self.voters} if self.voters else {}),
            "node.id": str(self.node),
            "log.dirs": str(self.folder / "data"),
            "listeners": _urls({**ports, "CONTROLLER": self.controller}, self.host),
            "advertised.listeners": _urls({**ports, "PROXIED": told}, self.host),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
            **self.properties,
        }

    def _jvm(self, main: str) -> list[str]:
        config = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return [self._java, *_JVM, config, "-cp", f"{self._jars}/*", main]

    def command(self) -> list[str]:
        """Runs broker and controller in one process."""
        return [*self._jvm("kafka.Kafka"), "server.properties"]

    def ready(self) -> bool:
        """Asks for the brokers: one that serves but is not registered yet names none, not even itself."""
        try:
            with socket.create_connection((self.host, self.port), timeout=2.0) as link:
                link.sendall(_METADATA)
                answer = link.recv(16)  # length, correlation, throttle, brokers
                return len(answer) == 16 and int.from_bytes(answer[12:]) > 0
        except OSError:
            return False

    @property
    def url(self) -> str:
        """`host:port`, or what the environment says."""
        return self.given or f"{self.host}:{self.port}"


def _urls(ports: Mapping[str, int], host: str) -> str:
    return ",".join(f"{name}://{host}:{port}" for name, port in ports.items())


def cluster(size: int = 3, properties: Mapping[str, str] | None = None) -> list[Kafka]:
    """Returns brokers of one cluster, not started: start them at the same time, each waits for a majority."""
    brokers = [Kafka(properties) for _ in range(size)]
    for number, broker in enumerate(brokers, 1):
        broker.node, broker.controller = number, free_port()
    voters = ",".join(f"{each.node}@{each.host}:{each.controller}" for each in brokers)
    for broker in brokers:
        broker.voters = voters
    return brokers
