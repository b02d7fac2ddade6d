"""One real server of a test run: what is common to all of them.

A subclass answers five questions: `provide` (where does it come from), `command` (how is it started), `ready` (does it
answer), `url` (where is it), and, where needed, `prepare` (which files does it want first). Processes are handled here.
"""

import abc
import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from ductape_conformance.proxy import TcpProxy, free_port

# Ends the server's group when this process goes away without a word (kill -9 of pytest): then the pipe closes.
_GUARD = 'read _; kill -s KILL -- "-$1" 2>/dev/null'


class Unavailable(Exception):
    """The server cannot be had here; the text says what was tried and what to do."""


class NotOurs(Exception):
    """The server's address was given by the environment: it is not ours to kill or restart."""


def apt_install(*packages: str) -> str | None:
    """Installs Debian packages where that is possible.

    Args:
        packages: Names as `apt-get` knows them.

    Returns:
        None when they are installed, else why not.
    """
    if shutil.which("apt-get") is None:
        return "this system has no apt-get"
    if os.geteuid() != 0:
        return "installing needs root"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    # Waits for another apt-get rather than failing: test workers start at the same moment.
    install = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "-qq", "--no-install-recommends", *packages]
    answer = None
    # The lists may be missing or old: refresh them only when the first attempt fails.
    for command in (install, ["apt-get", "update", "-qq"], install):
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        answer = (done.stderr or done.stdout).strip()
        if done.returncode == 0 and command is install:
            return None
    return f"apt-get failed: {answer[-300:] if answer else 'no reason given'}"


def proxy_of(server: "Server") -> TcpProxy:
    """Returns a proxy in front of a server, not open: its clients stay behind it, whatever address the server tells."""
    if server.proxied is None:
        return TcpProxy(server.host, server.port)
    target, told = server.proxied
    proxy = TcpProxy(server.host, target)
    proxy.port = told
    return proxy


class Server(abc.ABC):
    """A server process with its own port, data folder and process group, or the one that the environment names.

    Attributes:
        name: As in the fixture `<name>_server`.
        variable: The environment variable whose address is used instead of starting one.
        start_seconds: How long it may take from start to readiness.
        port: Where it listens; the same after every restart.
        folder: Its data; the same after every restart, removed by `stop`.
        proxied: Where one that tells clients its address serves those behind a proxy, and the port that it tells them.
    """

    name: ClassVar[str]
    variable: ClassVar[str]
    start_seconds: ClassVar[float] = 20.0

    def __init__(self) -> None:
        self.given = os.environ.get(self.variable, "").strip() or None
        parts = urlsplit(self.given) if self.given else None
        self.host = (parts.hostname if parts else None) or "127.0.0.1"
        self.port = (parts.port if parts else None) or 0
        self.folder = Path()
        self.proxied: tuple[int, int] | None = None
        self.origin = f"{self.variable} in the environment" if self.given else ""
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def __repr__(self) -> str:
        state = "given" if self.given else "up" if self.alive else "down"
        return f"<{type(self).__name__} {self.url if self.port else 'not started'} {state}>"

    @abc.abstractmethod
    def provide(self) -> str:
        """Finds or installs the server and returns what it found.

        Raises:
            Unavailable: It cannot be had here.
        """

    @abc.abstractmethod
    def command(self) -> list[str]:
        """Returns the command that runs the server in the foreground on `port` with its data in `folder`."""

    @abc.abstractmethod
    def ready(self) -> bool:
        """Asks the server once whether it serves; never raises for "not yet"."""

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """The address a client takes; without credentials that are worth hiding."""

    def prepare(self) -> None:  # noqa: B027  # most servers want nothing
        """Writes what the server wants to find before its first start; nothing by default."""

    def environment(self) -> dict[str, str]:
        """Returns the environment of the process; ours by default."""
        return dict(os.environ)

    @property
    def alive(self) -> bool:
        """Whether the process we started runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self.alive else None

    def start(self) -> None:
        """Starts the server and returns when it serves; does nothing when it runs.

        Raises:
            Unavailable: It cannot be had here, or does not come up.
        """
        if self.given or self.alive:
            self._await_ready()
            return
        if not self.port:
            self.origin = self.provide()
            self.folder = Path(tempfile.mkdtemp(prefix=f"ductape-{self.name}-"))
            self.port = free_port()
            atexit.register(self.stop)
            self.prepare()
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guard = ["/bin/sh", "-c", _GUARD, "guard", str(self._process.pid)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)
        self._await_ready()

    def kill(self) -> None:
        """Ends the server and its children with SIGKILL, as a crash would.

        Raises:
            NotOurs: The environment named the server.
        """
        self._must_be_ours("kill")
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Starts the server again on the same port with the same data, killing it first where it still runs.

        In a coroutine, `await asyncio.to_thread(server.restart)` keeps the loop and the proxy in it alive.

        Raises:
            NotOurs: The environment named the server.
        """
        self._must_be_ours("restart")
        self._end(signal.SIGKILL)
        self.start()

    def freeze(self) -> None:
        """Stops the process where it stands (SIGSTOP): connections stay open, nothing is answered."""
        self._must_be_ours("freeze")
        if self.pid is not None:
            os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen process go on."""
        self._must_be_ours("thaw")
        if self.pid is not None:
            os.killpg(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Ends the server in an orderly way and removes its data; safe to call twice, never raises."""
        # A forked child of a test runs the same exit handlers: the server is not its own.
        if self.given or not self.port or os.getpid() != self._owner:
            return
        self._end(signal.SIGTERM)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.port = 0
        atexit.unregister(self.stop)

    def log_tail(self, characters: int = 800) -> str:
        """Returns the end of what the server printed, for error texts."""
        try:
            return (self.folder / "server.log").read_text(errors="replace")[-characters:].strip()
        except OSError:
            return ""

    def _must_be_ours(self, wish: str) -> None:
        if self.given:
            raise NotOurs(f"{wish} {self.name}: the server is the one {self.variable} names, not ours")

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            os.killpg(process.pid, how)
            os.killpg(process.pid, signal.SIGCONT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.communicate()

    def _await_ready(self) -> None:
        bound = 5.0 if self.given else self.start_seconds
        deadline = time.monotonic() + bound
        pause = 0.01
        while not self.ready():
            if self._process is not None and self._process.poll() is not None:
                raise Unavailable(f"{self.name} ended with status {self._process.returncode}: {self.log_tail()}")
            if time.monotonic() > deadline:
                detail = self.log_tail() or f"nothing serves at {self.url}"
                raise Unavailable(f"{self.name} does not answer in {bound:g} s: {detail}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)
