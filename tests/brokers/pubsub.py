"""Google Pub/Sub: the official emulator where there is one, else pstest of Google's Go library, built once."""

import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tests.brokers.maven import java
from tests.brokers.server import Server, Unavailable, apt_install

# Where an emulator may be: its folder, its jar, or the root of a Google Cloud SDK.
EMULATOR = "DUCTAPE_TEST_PUBSUB_EMULATOR"

_VERSION = "v2.0.0"
_MODULE = f"""module pstest-server

go 1.23

require cloud.google.com/go/pubsub/v2 {_VERSION}
"""
_MAIN = """package main

import (
\t"fmt"
\t"os"
\t"strconv"

\t"cloud.google.com/go/pubsub/v2/pstest"
)

func main() {
\tport, err := strconv.Atoi(os.Args[1])
\tif err != nil {
\t\tpanic(err)
\t}
\tserver := pstest.NewServerWithPort(port)
\tfmt.Println(server.Addr)
\tselect {}
}
"""


class Pubsub(Server):
    """A Pub/Sub server that keeps everything in memory: a restart has forgotten topics, subscriptions and messages.

    Args:
        heap: Megabytes that the emulator may take.

    Attributes:
        official: It is Google's emulator, not pstest.
    """

    name: ClassVar[str] = "pubsub"
    variable: ClassVar[str] = "DUCTAPE_TEST_PUBSUB"

    def __init__(self, heap: int = 384) -> None:
        super().__init__()
        self.heap = heap
        if self.given and not self.port:
            host, _, port = self.given.rpartition(":")
            self.host, self.port = host or "127.0.0.1", int(port)
        self.official = True
        self._program: list[str] = []

    def provide(self) -> str:
        """Finds the emulator's jar, else builds Google's Go imitation, and says which of them it is."""
        jar = next(_jars(), None)
        if jar is not None:
            self._program = [java(), f"-Xmx{self.heap}m", "-XX:+UseSerialGC", "-jar", str(jar)]
            return str(jar)
        self.official = False
        self._program = [str(_pstest())]
        return f"pstest of cloud.google.com/go/pubsub/v2 {_VERSION}, not the official emulator"

    def command(self) -> list[str]:
        """Runs it on loopback only."""
        if self.official:
            return [*self._program, f"--host={self.host}", f"--port={self.port}"]
        return [*self._program, str(self.port)]

    def ready(self) -> bool:
        """Opens a connection: both listen when they serve."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1.0):
                return True
        except OSError:
            return False

    @property
    def url(self) -> str:
        """`host:port`, as `PUBSUB_EMULATOR_HOST` has it."""
        return self.given or f"{self.host}:{self.port}"


def _jars() -> Iterator[Path]:
    """Yields the emulator's jars: where the environment says, beside its script, in the SDK that has gcloud."""
    for root in _roots():
        if root.suffix == ".jar" and root.is_file():
            yield root
        for place in (root, root / "lib", root / "platform" / "pubsub-emulator" / "lib"):
            yield from sorted(place.glob("cloud-pubsub-emulator-*.jar"), reverse=True)


def _roots() -> Iterator[Path]:
    for variable in (EMULATOR, "CLOUDSDK_ROOT_DIR"):
        if value := os.environ.get(variable, "").strip():
            yield Path(value)
    for program in ("cloud-pubsub-emulator", "gcloud"):
        if found := shutil.which(program):
            yield from Path(found).resolve().parents[1:2]
    yield Path.home() / "google-cloud-sdk"
    yield Path("/usr/lib/google-cloud-sdk")


def _pstest() -> Path:
    """Returns the Go server, built once into the user's cache.

    Raises:
        Unavailable: There is no Go, or it cannot build.
    """
    advice = (
        f"Install google-cloud-cli-pubsub-emulator, or name its jar in {EMULATOR}, or set {Pubsub.variable}=host:port"
    )
    go = shutil.which("go")
    if go is None:
        refused = apt_install("golang-go")
        go = shutil.which("go")
        if go is None:
            raise Unavailable(
                f"no Pub/Sub emulator and no go on PATH; {refused or 'the package brought none'}. {advice}"
            )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ductape-tests"
    program = cache / f"pstest-{hashlib.sha256((_MODULE + _MAIN).encode()).hexdigest()[:16]}"
    if program.is_file():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pstest-", dir=cache) as name:
        made = Path(name)
        (made / "go.mod").write_text(_MODULE)
        (made / "main.go").write_text(_MAIN)
        for step in (["mod", "tidy"], ["build", "-o", "server", "."]):
            done = subprocess.run(
                [go, *step],
                cwd=made,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            if done.returncode:
                raise Unavailable(f"go {step[0]} cannot make pstest: {done.stderr[-300:].strip()}. {advice}")
        # Renamed into place: several test processes may do this at the same moment.
        (made / "server").replace(program)
    return program
