"""Figures, and the file they are kept in."""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec

FORMAT = 3
PACKAGES = ("msgspec", "uvloop", "faststream", "pydantic")


class Measured(msgspec.Struct, kw_only=True):
    """What one fresh process found."""

    value: float
    notes: list[str] = []
    """Messages lost or repeated, and whatever else a reader must know; what begins in capitals makes a run unsound."""
    extra: dict[str, float] = {}
    """Further numbers of the same run."""
    histogram: dict[int, int] = {}
    """Latencies, as `latency.bucket` counts them: those of all repeats are put together."""
    shares: dict[str, float] = {}
    """Of a profiled run: whose code took how much of its CPU."""


class Figure(msgspec.Struct, kw_only=True):
    """One number of the report, and the repeats it is the median of."""

    suite: str
    """``kernel``, ``counts`` or a provider."""
    case: str
    title: str
    contestant: str = "ductape"
    loop: str = "asyncio"
    metric: str = "cpu"
    unit: str = "µs/message"
    samples: list[float] = []
    notes: list[str] = []
    extra: dict[str, list[float]] = {}
    histogram: dict[int, int] = {}
    shares: dict[str, float] = {}
    """Where a goal is missed: whose code took how much of the CPU of a further run, which was profiled."""
    origin: str = ""
    """In committed results, the run that it is of: a key of `Report.origins`."""

    @property
    def name(self) -> tuple[str, str, str, str]:
        """What tells it from the others of a report."""
        return self.suite, self.case, self.contestant, self.loop

    @property
    def median(self) -> float:
        """The middle of the repeats."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest repeat."""
        return min(self.samples), max(self.samples)

    def all_of(self, metric: str) -> list[float]:
        """Return every repeat's value of its own metric, or of one of the further numbers."""
        return self.samples if metric == self.metric else self.extra.get(metric, [])

    def of(self, metric: str) -> float | None:
        """Return the median of its own metric, or of one of the further numbers; None if it has no such number."""
        samples = self.all_of(metric)
        return statistics.median(samples) if samples else None

    def add(self, measured: Measured) -> None:
        """Take one more repeat."""
        self.samples.append(measured.value)
        for name, value in measured.extra.items():
            self.extra.setdefault(name, []).append(value)
        for bucket, count in measured.histogram.items():
            self.histogram[bucket] = self.histogram.get(bucket, 0) + count
        self.note(*measured.notes)

    def note(self, *notes: str) -> None:
        """Keep notes, each once."""
        self.notes += [note for note in notes if note not in self.notes]

    @property
    def faults(self) -> list[str]:
        """The notes of runs that lost or repeated messages, or failed."""
        return [note for note in self.notes if note.split(" ")[0].rstrip(":").isupper()]


class Origin(msgspec.Struct, kw_only=True):
    """A run that committed figures are of."""

    form: str
    load: str
    machine: dict[str, str]
    versions: dict[str, str]


class Report(msgspec.Struct, kw_only=True):
    """One run of the benchmarks; or, committed, figures of several."""

    format: int = FORMAT
    made: str = ""
    finished: bool = False
    machine: dict[str, str] = {}
    versions: dict[str, str] = {}
    settings: dict[str, str] = {}
    ways: dict[str, dict[str, str]] = {}
    """What the raw client did, by provider and contestant, in the client's words."""
    figures: list[Figure] = []
    origins: dict[str, Origin] = {}
    """The runs that committed figures are of, by when they were made."""

    def find(self, suite: str, case: str, contestant: str, loop: str) -> Figure | None:
        """Return a figure, if it was measured."""
        wanted = (suite, case, contestant, loop)
        return next((figure for figure in self.figures if figure.name == wanted and figure.samples), None)

    def kept(self, figure: Figure) -> Figure:
        """Return the figure of this name, if there is one already; else the given one, which is taken in."""
        found = next((each for each in self.figures if each.name == figure.name), None)
        if found is None:
            self.figures.append(figure)
        return found or figure

    def write(self, path: Path) -> None:
        """Keep it as JSON; a reader never sees half a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read what `write` wrote.

        Raises:
            ValueError: It is of another format.
        """
        report = msgspec.json.decode(path.read_bytes(), type=cls)
        if report.format != FORMAT:
            raise ValueError(f"{path.name} is of format {report.format}, this is {FORMAT}: measure anew")
        return report


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


def fingerprint() -> str:
    """Return what tells the sources that are measured, and those that measure, from others: any change is seen."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for pattern in (
        "core/src/**/*.py",
        "adapters/*/src/**/*.py",
        "contrib/opentelemetry/src/**/*.py",
        "benchmarks/**/*.py",
    ):
        for path in sorted(root.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _versions() -> dict[str, str]:
    root = Path(__file__).parents[1]
    ductape = (root / "VERSION").read_text().strip() + _commit(root)
    found = {"ductape": ductape, "python": f"{platform.python_implementation()} {platform.python_version()}"}
    return found | packages(PACKAGES)


def packages(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
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
    """Return what a server's program says of itself, in one line."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10)
    return " ".join(part for part in done.stdout.split() if "=" not in part or part.startswith("v=")) or "unknown"


def progress(text: str) -> None:
    """Tell a person how far it is; the report itself goes to standard output."""
    print(text, file=sys.stderr, flush=True)
