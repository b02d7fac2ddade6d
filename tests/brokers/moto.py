"""A second opinion on SQS: moto, a mock of AWS in Python, as a server of its own. It keeps everything in memory."""

import importlib.util
import sys
import urllib.request
from typing import ClassVar

from tests.brokers.server import Server, Unavailable

_NEEDED = ("moto", "flask", "flask_cors")


class Moto(Server):
    """Moto's server, which asks for no credentials: any do."""

    name: ClassVar[str] = "moto"
    variable: ClassVar[str] = "DUCTAPE_TEST_MOTO"
    start_seconds: ClassVar[float] = 60.0

    def provide(self) -> str:
        """Finds the package beside this Python."""
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            text = f"{', '.join(missing)} cannot be imported: pip install moto flask flask-cors, or set {self.variable}"
            raise Unavailable(text)
        return f"moto beside {sys.executable}"

    def command(self) -> list[str]:
        """Runs it in the foreground."""
        return [sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)]

    def ready(self) -> bool:
        """Asks for its own page."""
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def url(self) -> str:
        """`http://host:port`, or what the environment says."""
        return self.given or f"http://{self.host}:{self.port}"
