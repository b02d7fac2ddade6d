"""A RabbitMQ server: Debian's own release run as our process, or Debian 13's 4.x in a folder of its own."""

import contextlib
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import ClassVar, Literal

from ductape_conformance.proxy import free_port
from tests.brokers.server import Server, Unavailable, apt_install

_RELEASES = "usr/lib/rabbitmq/lib"
_GENERATION = "DUCTAPE_TEST_RABBITMQ_GENERATION"
_LATER = "DUCTAPE_TEST_RABBITMQ4_ROOT"

_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users = none
log.console = true
log.console.level = warning
log.file = false
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
consumer_timeout = {timeout}
max_message_size = 16777216
"""
_TLS = """\
listeners.tcp = none
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {cert}
ssl_options.keyfile = {key}
ssl_options.verify = {verify}
ssl_options.fail_if_no_peer_cert = {must}
"""


class RabbitMQ(Server):
    """RabbitMQ with a node, an Erlang port mapper, a cookie and a data folder of its own, so that many can run.

    Args:
        generation: 3 is Debian 12's release. 4 is Debian 13's, unpacked by debootstrap into a cache folder (once, some
            minutes, 400 MB, root), or found under `DUCTAPE_TEST_RABBITMQ4_ROOT`. None: the one that
            `DUCTAPE_TEST_RABBITMQ_GENERATION` says, else 3.
        consumer_timeout: Seconds after which the broker closes a channel that does not acknowledge. Short, so that a
            test can wait for it; the broker's own default is 1800.
        tls: Paths of the CA, the certificate and the key with which it wants TLS on its only port; None: no TLS.
        client_certificate: Whether it wants one, too.
    """

    name: ClassVar[str] = "rabbitmq"
    variable: ClassVar[str] = "DUCTAPE_TEST_RABBITMQ"
    start_seconds: ClassVar[float] = 90.0

    def __init__(
        self,
        generation: Literal[3, 4] | None = None,
        consumer_timeout: float = 10.0,
        tls: tuple[Path, Path, Path] | None = None,
        *,
        client_certificate: bool = False,
    ) -> None:
        super().__init__()
        self.generation = generation or int(os.environ.get(_GENERATION, "3"))
        self.consumer_timeout, self.tls = consumer_timeout, tls
        self.client_certificate = client_certificate
        if self.given and not self.port:
            self.port = 5672
        self._root = Path("/")
        self._release = Path()
        self._epmd = self._dist = 0
        self._node = ""

    def provide(self) -> str:
        """Finds Debian's release, else installs it as root by apt, or by debootstrap for generation 4.

        The system's own service is not used.
        """
        refused = None
        if self.generation == 4:
            self._root, refused = _later()
        elif not any(Path("/", _RELEASES).glob("rabbitmq_server-*")):
            refused = apt_install("rabbitmq-server")
        found = sorted((self._root / _RELEASES).glob("rabbitmq_server-*"))
        if not found:
            raise Unavailable(
                f"no rabbitmq-server {self.generation}.x below {self._root}; {refused or 'the package brought none'}. "
                f"Install Debian's rabbitmq-server, or set {self.variable}=amqp://user:password@host:port/"
            )
        self._release = Path("/") / found[-1].relative_to(self._root)
        return str(found[-1])

    def prepare(self) -> None:
        """Writes config and cookie; the tick makes the broker look at consumer timeouts often."""
        self._epmd, self._dist = free_port(), free_port()
        self._node = f"ductape{secrets.token_hex(4)}@localhost"
        self.folder.chmod(0o700)
        text = _CONFIG.format(port=self.port, timeout=int(self.consumer_timeout * 1000))
        if self.tls is not None:
            ca, cert, key = (shutil.copy(path, self.folder) for path in self.tls)
            verify, must = ("verify_peer", "true") if self.client_certificate else ("verify_none", "false")
            tls = _TLS.format(port=self.port, ca=ca, cert=cert, key=key, verify=verify, must=must)
            text = tls + text.partition("\n")[2]
        (self.folder / "rabbitmq.conf").write_text(text)
        (self.folder / "advanced.config").write_text("[{rabbit, [{channel_tick_interval, 500}]}].\n")
        (self.folder / "enabled_plugins").write_text("[].\n")
        if self.generation == 4:  # the folder has the same path inside the changed root
            inside = self._root / self.folder.relative_to("/")
            inside.mkdir(parents=True, exist_ok=True)
            _run("mount", "--bind", str(self.folder), str(inside))
            if not (self._root / "proc" / "1").exists():
                _run("mount", "--bind", "/proc", str(self._root / "proc"))

    def command(self) -> list[str]:
        """Runs the release's own script: the packaged wrapper would switch to the system's user and folders.

        The port mapper runs beside it, and ends with it: the one that Erlang starts would become a daemon.
        """
        beside = f'epmd -port {self._epmd} -address 127.0.0.1 & exec "$0"'
        script = ["/bin/sh", "-c", beside, str(self._release / "sbin" / "rabbitmq-server")]
        return ["chroot", str(self._root), *script] if self.generation == 4 else script

    def environment(self) -> dict[str, str]:
        """Everything that is this node's alone."""
        folder = str(self.folder)
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))},
            "HOME": folder,
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_DIST_PORT": str(self._dist),
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def ready(self) -> bool:
        """Connects: with TLS that is all; else it begins to speak AMQP, and is answered `connection.start`."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1.0) as link:
                if self.tls is not None:
                    return True
                link.sendall(b"AMQP\x00\x00\x09\x01")
                return link.recv(8)[:1] == b"\x01"
        except OSError:
            return False

    def stop(self) -> None:
        """Ends the node and, for generation 4, the mount of its folder."""
        if self._process is not None and self._process.poll() is not None:  # by itself: the mapper goes on
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        inside = self._root / self.folder.relative_to("/") if self.port and self.generation == 4 else None
        if inside is not None and not self.given and os.getpid() == self._owner:
            self._end(signal.SIGTERM)
            _run("umount", "--lazy", str(inside))
            inside.rmdir()
        super().stop()

    @property
    def url(self) -> str:
        """`amqp://guest:guest@host:port/`, or what the environment says."""
        scheme = "amqps" if self.tls is not None else "amqp"
        return self.given or f"{scheme}://guest:guest@{self.host}:{self.port}/"


def _run(*command: str) -> str | None:
    """Runs a command; returns None, or the end of what it complained about."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip()[-300:] or f"{command[0]} failed"


def _later() -> tuple[Path, str | None]:
    """Returns the root of a Debian 13 with its RabbitMQ, unpacked now if need be, and why it may be missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get(_LATER) or cache / "ductape" / "rabbitmq4")
    if any((root / _RELEASES).glob("rabbitmq_server-*")):
        return root, None
    if os.geteuid() != 0:
        return root, "unpacking one needs root"
    if shutil.which("debootstrap") is None and (refused := apt_install("debootstrap")):
        return root, refused
    root.mkdir(parents=True, exist_ok=True)
    kind = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    options = ("--variant=minbase", "--include=rabbitmq-server", f"--arch={kind}")
    refused = _run("debootstrap", *options, "trixie", str(root))
    hosts = root / "etc" / "hosts"
    if refused is None:
        hosts.write_text("127.0.0.1 localhost\n")
    return root, refused
