"""A second opinion on SQS: moto, a mock of AWS in Python, as a server of its own. It keeps everything in memory."""

import importlib.util
import sys
import urllib.request
from typing import ClassVar

from tests.brokers.server import Server, Unavailable

_NEEDED = ("moto", "flask", "flask_cors")

# Each request has a thread, and moto locks a queue only while it appends: of two deletions at a time one may be undone,
# and so may a message that is sent during one. Here a deletion holds that lock too.
_LOCKED = """
from moto.server import main
from moto.sqs.models import Queue

delete = Queue.delete_message

def locked(self, receipt_handle):
    with self._messages_lock:
        return delete(self, receipt_handle)

Queue.delete_message = locked
main()
"""


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
        return [sys.executable, "-c", _LOCKED, "-H", self.host, "-p", str(self.port)]

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
