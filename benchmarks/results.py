"""Figures, and the file they are kept in."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec

FORMAT = 1
PACKAGES = ("msgspec", "uvloop", "redis", "hiredis", "faststream", "pydantic")


class Measured(msgspec.Struct, kw_only=True):
    """What one fresh process found."""

    value: float
    notes: list[str] = []
    """Messages lost or repeated, and whatever else a reader must know."""
    extra: dict[str, float] = {}


class Figure(msgspec.Struct, kw_only=True):
    """One number of the report, and the repeats it is the median of."""

    suite: str
    """``kernel``, a provider, or ``idle``."""
    case: str
    title: str
    contestant: str = "ductape"
    loop: str = "asyncio"
    metric: str = "cpu"
    unit: str = "µs/message"
    samples: list[float] = []
    notes: list[str] = []
    extra: dict[str, float] = {}

    @property
    def name(self) -> tuple[str, str, str, str, str]:
        """What tells it from the others of a report."""
        return self.suite, self.case, self.contestant, self.loop, self.metric

    @property
    def median(self) -> float:
        """The middle of the repeats."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest repeat."""
        return min(self.samples), max(self.samples)

    def add(self, measured: Measured) -> None:
        """Take one more repeat."""
        self.samples.append(measured.value)
        self.extra = measured.extra or self.extra
        self.notes += [note for note in measured.notes if note not in self.notes]


class Report(msgspec.Struct, kw_only=True):
    """One run of the benchmarks."""

    format: int = FORMAT
    made: str = ""
    machine: dict[str, str] = {}
    versions: dict[str, str] = {}
    settings: dict[str, str] = {}
    figures: list[Figure] = []

    def find(self, suite: str, case: str, contestant: str, loop: str, metric: str) -> Figure | None:
        """Return a figure, if it was measured."""
        wanted = (suite, case, contestant, loop, metric)
        return next((figure for figure in self.figures if figure.name == wanted and figure.samples), None)

    def write(self, path: Path) -> None:
        """Keep it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read what `write` wrote."""
        return msgspec.json.decode(path.read_bytes(), type=cls)


def new_report(settings: dict[str, str]) -> Report:
    """Return a report of this machine; it names neither host nor user nor paths."""
    made = datetime.now(UTC).replace(microsecond=0).isoformat()
    return Report(made=made, machine=_machine(), versions=_versions(), settings=settings)


def _machine() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        models = []
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "processors": str(os.cpu_count() or 0),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
    }


def _versions() -> dict[str, str]:
    root = Path(__file__).parents[1]
    ductape = (root / "VERSION").read_text().strip() + _commit(root)
    found = {"ductape": ductape, "python": f"{platform.python_implementation()} {platform.python_version()}"}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit(root: Path) -> str:
    """Say which commit of the checkout this is, and whether it was changed since."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""


def server_version(program: str) -> str:
    """Return what a server says of itself, in one line."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10)
    return " ".join(part for part in done.stdout.split() if "=" not in part or part.startswith("v=")) or "unknown"


def progress(text: str) -> None:
    """Tell a person how far it is; the report itself goes to standard output."""
    print(text, file=sys.stderr, flush=True)
