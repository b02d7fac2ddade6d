"""An SQS server: ElasticMQ out of Maven artifacts, run by Java. It keeps messages in memory: a kill loses them."""

import socket
from pathlib import Path
from typing import ClassVar

from tests.brokers import maven
from tests.brokers.server import Server

VERSION = "1.6.14"
_JARS = ("org.elasticmq:elasticmq-server_2.13", "org.elasticmq:elasticmq-rest-sqs_2.13")
# Without a node address the queue URLs name another port than the one that serves.
_CONFIG = """include classpath("application.conf")
node-address {{ protocol = http, host = "{host}", port = {port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = "{host}", sqs-limits = strict }}
rest-stats {{ enabled = false }}
"""
_ASK = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.0\r\n"
    b"X-Amz-Target: AmazonSQS.ListQueues\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
)


class Sqs(Server):
    """ElasticMQ with the strict limits of AWS. It asks for no credentials: any do.

    Args:
        heap: Megabytes that it may take; it keeps messages in memory.
    """

    name: ClassVar[str] = "sqs"
    variable: ClassVar[str] = "DUCTAPE_TEST_SQS"
    start_seconds: ClassVar[float] = 60.0

    def __init__(self, heap: int = 256) -> None:
        super().__init__()
        self.heap = heap
        self._java = ""
        self._jars = Path()

    def provide(self) -> str:
        """Finds Java and the jars, else installs both: Java and Maven by apt, the jars by Maven."""
        self._java = maven.java()
        self._jars = maven.jars(*(f"{artifact}:{VERSION}" for artifact in _JARS))
        return f"ElasticMQ {VERSION} in {self._jars}"

    def prepare(self) -> None:
        """Writes the configuration: where it listens, and AWS's limits."""
        (self.folder / "elasticmq.conf").write_text(_CONFIG.format(host=self.host, port=self.port))

    def command(self) -> list[str]:
        """Runs it with a small heap, and a compiler that is quick rather than thorough."""
        return [
            *(self._java, f"-Xmx{self.heap}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            *("-Dconfig.file=elasticmq.conf", "-cp", f"{self._jars}/*", "org.elasticmq.server.Main"),
        ]

    def ready(self) -> bool:
        """Lists the queues: the port may be open before it serves."""
        try:
            with socket.create_connection((self.host, self.port), timeout=2.0) as link:
                link.sendall(_ASK)
                return link.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    @property
    def url(self) -> str:
        """`http://host:port`, or what the environment says."""
        return self.given or f"http://{self.host}:{self.port}"
