"""What `python -m benchmarks` measures, as jobs."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata

import msgspec

from . import cases, counts, kernel, latency, providers
from .child import Spec
from .contestants import absent
from .imports import import_figure
from .providers import Provider, Ways
from .report import reached
from .results import Figure, Report, packages, progress
from .runner import CHILD_SECONDS, Job, Pace, measure, profile, time_of

LOOPS = ("asyncio", "uvloop")
Save = Callable[[], None]
Rest = Callable[[], float]


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    name: str
    repeats: int
    seconds: float
    """Of the measured part of a run."""
    share: float = 1.0
    """Of the messages of the kernel's cases."""
    budget: float
    """Seconds within which all rounds should end, shared by the suites; later rounds are left out for it."""
    end: float
    """Seconds after which everything ends, whatever is under way."""
    child: float = CHILD_SECONDS
    """Seconds that one process may take."""
    light: int = 400
    """Events of a repeat of the light latency case."""
    watch: float = 10.0
    """Seconds that a process at rest is watched."""
    imports: int = 12
    loops: tuple[str, ...] = LOOPS


SCALES = {
    "quick": Scale(
        name="quick",
        repeats=2,
        seconds=0.15,
        share=0.05,
        budget=230,
        end=270,
        child=20,
        light=100,
        imports=3,
        loops=("asyncio",),
    ),
    # Wheels are built before, and servers start and stop: 45 minutes in all.
    "usual": Scale(name="usual", repeats=5, seconds=0.3, share=0.3, budget=2340, end=2520, child=60, light=200),
    "full": Scale(name="full", repeats=5, seconds=1.0, budget=36_000, end=36_000),
}
ONCE = ("ductape, defaults",)
"""Contestants on one loop only, and not in the quick form."""
PATIENT = ("publish-1", "latency")
"""Cases that the quick form leaves out, unless they are asked for, where a subscription takes seconds to end."""
BOOT = 8.0
"""Seconds that a provider's server takes to start and stop, about."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What of it."""

    scale: Scale
    begins: str = ""
    """Only cases whose name begins with this; one of the full form is measured where it is named whole."""

    def takes(self, case: str, *, full: bool) -> bool:
        """Say whether a case is measured."""
        return case == self.begins or (case.startswith(self.begins) and (self.scale.name == "full" or not full))

    @property
    def loops(self) -> list[str]:
        """The event loops that are wanted and there."""
        return [loop for loop in self.scale.loops if loop == "asyncio" or importlib.util.find_spec(loop)]


class Suite(msgspec.Struct, kw_only=True):
    """What is measured together, in rounds: the kernel, or all contestants of a provider."""

    name: str
    jobs: list[Job]
    boot: float = 0.0

    def takes(self, repeats: int) -> float:
        """Return the seconds that it will take, about."""
        return self.boot + time_of(self.jobs, repeats)


def planned(name: str, report: Report, choice: Choice, earlier: Report | None) -> Suite:
    """Return what is to be measured of a suite; nothing of a provider whose adapter is not installed.

    Args:
        name: The suite's.
        report: Takes the figures, and has those of an interrupted run.
        choice: What of it.
        earlier: Results that tell how many messages make a run, and how long it takes.
    """
    if name == "kernel":
        jobs = [*_kernel_jobs(report, choice), *_count_jobs(report, choice)]
    else:
        found = providers.provider(name)
        try:
            metadata.distribution(found.distribution)
        except metadata.PackageNotFoundError:
            progress(f"{name}: {found.distribution} is not installed: left out")
            return Suite(name=name, jobs=[])
        jobs = list(_jobs(name, found, report, choice))
    for job in jobs:
        job.earlier = earlier.find(*job.figure.name) if earlier is not None else None
    return Suite(name=name, jobs=jobs, boot=BOOT if jobs and name not in ("kernel", "memory", "sqlite") else 0.0)


def _kernel_jobs(report: Report, choice: Choice) -> Iterator[Job]:
    for name, case in kernel.CASES.items():
        if not name.startswith(choice.begins):
            continue
        messages = max(1000, int(case.messages * choice.scale.share) // 1000 * 1000)
        for loop in choice.loops:
            figure = report.kept(Figure(suite="kernel", case=name, title=case.title, loop=loop))
            yield Job(figure=figure, spec=Spec(suite="kernel", case=name, loop=loop, messages=messages))


def _count_jobs(report: Report, choice: Choice) -> Iterator[Job]:
    for name, case in counts.CASES.items():
        if name.startswith(choice.begins):
            figure = Figure(suite="counts", case=name, title=case.title, metric="calls", unit=case.unit)
            yield Job(figure=report.kept(figure), spec=Spec(suite="counts", case=name), once=True)


def measure_suite(suite: Suite, report: Report, choice: Choice, pace: Pace, save: Save, rest: Rest) -> None:
    """Measure what was planned.

    Raises:
        OutOfTime: `pace.until` came.
    """
    if suite.name != "kernel":
        _measure_provider(suite, report, pace, save, rest)
        return
    measure(suite.jobs, pace, save, rest)
    _profile_missed(suite, report, pace)
    if "import".startswith(choice.begins) and report.find("kernel", "import", "ductape", "asyncio") is None:
        report.kept(import_figure(choice.scale.imports))


@contextmanager
def served(name: str, provider: Provider, report: Report) -> Iterator[str]:
    """Run a provider's server; gives its address, or that of an empty folder where there is no server."""
    providers.own_servers()
    server = provider.server()
    if server is None:
        with tempfile.TemporaryDirectory(prefix=f"ductape-bench-{name}-") as folder:
            yield folder
        return
    server.start()
    try:
        report.versions[f"{name} server"] = provider.version(server)
        yield server.url
    finally:
        server.stop()


def _measure_provider(suite: Suite, report: Report, pace: Pace, save: Save, rest: Rest) -> None:
    from tests.brokers import Unavailable

    name, provider = suite.name, providers.provider(suite.name)
    report.settings[name] = provider.settings
    if provider.raw is not None:
        report.ways[name] = _ways(provider.raw.ways)
    report.versions.update(packages(provider.packages))
    try:
        with served(name, provider, report) as url:
            for job in suite.jobs:
                job.spec = msgspec.structs.replace(job.spec, url=url)
            measure(suite.jobs, pace, save, rest)
            _profile_missed(suite, report, pace)
    except Unavailable as error:
        progress(f"  left out: {error}")


def _profile_missed(suite: Suite, report: Report, pace: Pace) -> None:
    """Run what misses a goal once more, profiled: the page says where its time goes."""
    if not pace.profiles:
        return
    missed = {figure.name for figure, _, (_, _, met) in reached(report) if not met}
    for job in suite.jobs:
        if job.figure.name in missed and job.figure.suite != "counts" and not job.once:
            progress(f"  misses a goal, and is profiled: {job.figure.title}, {job.figure.loop}")
            profile(job, pace)


def _ways(ways: Ways) -> dict[str, str]:
    said = {
        "raw": "; ".join((ways.publish, ways.consume)),
        "raw bulk": "; ".join(way for way in (ways.publish_bulk, ways.consume_bulk) if way),
    }
    return {name: text for name, text in said.items() if text}


def _lasts(case: cases.Case, scale: Scale) -> float:
    """Return how long the measured part of a case takes, about."""
    if case.most:
        return 1.5 * scale.seconds
    return scale.light / latency.RATE if case.metric == "p50" and not case.full else 4.0 + scale.watch


def _jobs(name: str, provider: Provider, report: Report, choice: Choice) -> Iterator[Job]:
    for case_name, case in cases.CASES.items():
        if not choice.takes(case_name, full=case.full):
            continue
        if provider.leaves and choice.scale.name == "quick" and case_name in PATIENT and not choice.begins:
            continue
        if why := cases.impossible(case, provider):
            progress(f"  {case.title}: left out, {why}")
            continue
        for loop in choice.loops if not case.once else choice.loops[:1]:
            for contestant in case.contestants:
                if absent(contestant, provider, case_name):
                    continue
                if contestant in ONCE and (loop != choice.loops[0] or choice.scale.name == "quick"):
                    continue
                figure = Figure(
                    suite=name,
                    case=case_name,
                    title=case.title,
                    contestant=contestant,
                    loop=loop,
                    metric=case.metric,
                    unit=case.unit,
                )
                spec = Spec(
                    suite=name,
                    case=case_name,
                    contestant=contestant,
                    loop=loop,
                    messages=min(case.messages, provider.backlog) or choice.scale.light,
                    seconds=choice.scale.watch,
                )
                before = msgspec.structs.replace(spec, fills=True, loop="asyncio")
                yield Job(
                    figure=report.kept(figure),
                    spec=spec,
                    before=before if case.backlog and provider.keeps else None,
                    most=min(case.most, provider.backlog),
                    least=max(case.least, min(provider.least, case.most)) if case.backlog else case.least,
                    seconds=_lasts(case, choice.scale),
                    once=case.once,
                )
