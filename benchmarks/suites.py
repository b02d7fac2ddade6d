"""What `python -m benchmarks` measures, as jobs."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata

import msgspec

from . import cases, counts, kernel, providers
from .child import Spec
from .contestants import absent
from .imports import import_figure
from .providers import Provider, Ways
from .results import Figure, Report, packages, progress
from .runner import Job, Pace, measure

LOOPS = ("asyncio", "uvloop")
Save = Callable[[], None]


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    name: str
    repeats: int
    seconds: float
    """Of the measured part of a run."""
    share: float = 1.0
    """Of the messages of the kernel's cases."""
    budget: float
    """Seconds that all of it may take before no further round begins, shared by the suites."""
    watch: float = 10.0
    """Seconds that a process at rest is watched."""
    imports: int = 12
    loops: tuple[str, ...] = LOOPS


SCALES = {
    "quick": Scale(name="quick", repeats=2, seconds=0.3, share=0.1, budget=240, imports=5, loops=("asyncio",)),
    "usual": Scale(name="usual", repeats=5, seconds=0.6, share=0.5, budget=2400),
    "full": Scale(name="full", repeats=5, seconds=1.0, budget=36_000),
}


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What of it."""

    scale: Scale
    begins: str = ""
    """Only cases whose name begins with this; one of the full form is measured where it is named whole."""
    budget: float = 0.0
    """Seconds for this suite."""

    @property
    def pace(self) -> Pace:
        """How often, and for how long."""
        return Pace(repeats=self.scale.repeats, seconds=self.scale.seconds, budget=self.budget)

    def takes(self, case: str, *, full: bool) -> bool:
        """Say whether a case is measured."""
        return case == self.begins or (case.startswith(self.begins) and (self.scale.name == "full" or not full))

    @property
    def loops(self) -> list[str]:
        """The event loops that are wanted and there."""
        return [loop for loop in self.scale.loops if loop == "asyncio" or importlib.util.find_spec(loop)]


def measure_kernel(report: Report, choice: Choice, save: Save) -> None:
    """The kernel on a null adapter, what importing costs, and the counts."""
    jobs = []
    for name, case in kernel.CASES.items():
        if not name.startswith(choice.begins):
            continue
        messages = max(1000, int(case.messages * choice.scale.share) // 1000 * 1000)
        for loop in choice.loops:
            figure = report.kept(Figure(suite="kernel", case=name, title=case.title, loop=loop))
            jobs.append(Job(figure=figure, spec=Spec(suite="kernel", case=name, loop=loop, messages=messages)))
    measure(jobs, choice.pace, save)
    if "import".startswith(choice.begins):
        report.kept(import_figure(choice.scale.imports))
    jobs = [
        Job(
            figure=report.kept(Figure(suite="counts", case=name, title=case.title, metric="calls", unit=case.unit)),
            spec=Spec(suite="counts", case=name),
            once=True,
        )
        for name, case in counts.CASES.items()
        if name.startswith(choice.begins)
    ]
    measure(jobs, choice.pace, save)


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


def measure_provider(name: str, report: Report, choice: Choice, save: Save) -> None:
    """All contestants of a provider, interleaved."""
    from tests.brokers import Unavailable

    provider = providers.provider(name)
    try:
        metadata.distribution(provider.distribution)
    except metadata.PackageNotFoundError:
        progress(f"  {provider.distribution} is not installed: left out")
        return
    report.settings[name] = provider.settings
    if provider.raw is not None:
        report.ways[name] = _ways(provider.raw.ways)
    report.versions.update(packages(provider.packages))
    try:
        with served(name, provider, report) as url:
            measure(list(_jobs(name, provider, url, report, choice)), choice.pace, save)
    except Unavailable as error:
        progress(f"  left out: {error}")


def _ways(ways: Ways) -> dict[str, str]:
    said = {
        "raw": "; ".join((ways.publish, ways.consume)),
        "raw bulk": "; ".join(way for way in (ways.publish_bulk, ways.consume_bulk) if way),
    }
    return {name: text for name, text in said.items() if text}


def _jobs(name: str, provider: Provider, url: str, report: Report, choice: Choice) -> Iterator[Job]:
    for case_name, case in cases.CASES.items():
        if not choice.takes(case_name, full=case.full):
            continue
        if why := cases.impossible(case, provider):
            progress(f"  {case.title}: left out, {why}")
            continue
        for loop in choice.loops if not case.once else choice.loops[:1]:
            for contestant in case.contestants:
                if why := absent(contestant, provider, case_name):
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
                    url=url,
                    messages=min(case.messages, provider.backlog),
                    seconds=choice.scale.watch,
                )
                before = msgspec.structs.replace(spec, fills=True, loop="asyncio")
                yield Job(
                    figure=report.kept(figure),
                    spec=spec,
                    before=before if case.backlog and provider.keeps else None,
                    most=min(case.most, provider.backlog),
                    least=case.least,
                    once=case.once,
                )
