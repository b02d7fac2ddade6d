"""What `import ductape` costs, and what it brings along."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import msgspec

from .results import Figure
from .runner import ROOT

FORBIDDEN = (
    *("stevedore", "opentelemetry", "redis", "hiredis", "aiokafka", "confluent_kafka", "aio_pika", "aiormq", "nats"),
    *("botocore", "aiobotocore", "boto3", "google.cloud", "grpc", "ductape_memory", "ductape_redis", "uvloop"),
)
"""What nobody who only imports the core may have to pay for."""

_CODE = """
import sys, time, asyncio, msgspec, json
began = time.perf_counter()
import ductape
took = time.perf_counter() - began
print(json.dumps({"milliseconds": took * 1000, "modules": sorted(sys.modules)}))
"""


class Imported(msgspec.Struct):
    """One fresh process."""

    milliseconds: float
    modules: list[str]

    @property
    def forbidden(self) -> list[str]:
        """The modules that should not be there."""
        return [name for name in self.modules if any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN)]


def import_once(cache: str | None = None) -> Imported:
    """Import in a fresh process, over `import asyncio, msgspec`.

    Args:
        cache: Where bytecode is kept, if not beside the sources: an installed package has it, a checkout may not.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if cache is not None:
        environment["PYTHONPYCACHEPREFIX"] = cache
    done = subprocess.run(
        [sys.executable, "-c", _CODE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return msgspec.json.decode(done.stdout, type=Imported)


def import_figure(times: int = 12) -> Figure:
    """Return the best of so many fresh processes, after one that writes bytecode."""
    with tempfile.TemporaryDirectory(prefix="ductape-bench-") as cache:
        first = import_once(cache)
        samples = sorted(import_once(cache).milliseconds for _ in range(times))
    notes = [f"LOADS {', '.join(first.forbidden)}"] if first.forbidden else []
    return Figure(
        suite="kernel",
        case="import",
        title=f"import ductape, over asyncio and msgspec; best of {times}",
        metric="time",
        unit="ms",
        samples=samples[:1],
        notes=notes,
        extra={"slowest": [round(samples[-1], 1)]},
    )
