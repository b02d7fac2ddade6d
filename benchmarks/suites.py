"""What `python -m benchmarks` measures, as jobs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from . import counts, idle, kernel, providers
from .child import Spec
from .imports import import_figure
from .providers import FILL
from .results import Figure, Report, progress, server_version
from .runner import Job, measure, run_child

LOOPS = ("asyncio", "uvloop")


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    repeats: int = 5
    share: float = 1.0
    """Of the messages."""
    budget: float = 900.0
    """Seconds a suite may take before no further round begins."""
    watch: float = 20.0
    imports: int = 12
    choice: str = ""
    """Measure only cases whose name begins with this."""


QUICK = Scale(repeats=2, share=0.25, budget=120.0, watch=6.0, imports=5)


def loops() -> list[str]:
    """Return the event loops that are there."""
    return [loop for loop in LOOPS if loop == "asyncio" or importlib.util.find_spec(loop)]


def measure_kernel(report: Report, scale: Scale) -> None:
    """The kernel on a null adapter, what importing costs, and the counts."""
    jobs = []
    for name, case in kernel.CASES.items():
        if not name.startswith(scale.choice):
            continue
        for loop in loops():
            figure = Figure(suite="kernel", case=name, title=case.title, loop=loop)
            messages = max(1000, int(case.messages * scale.share) // 1000 * 1000)
            jobs.append(Job(figure=figure, spec=Spec(suite="kernel", case=name, loop=loop, messages=messages)))
    report.figures += [job.figure for job in jobs]
    measure(jobs, scale.repeats, budget=scale.budget)
    if "import".startswith(scale.choice):
        report.figures.append(import_figure(scale.imports))
    jobs = [
        Job(
            figure=Figure(suite="counts", case=name, title=case.title, metric="calls", unit="calls"),
            spec=Spec(suite="counts", case=name),
        )
        for name, case in counts.CASES.items()
        if name.startswith(scale.choice)
    ]
    report.figures += [job.figure for job in jobs]
    measure(jobs, 1, budget=scale.budget)


@contextmanager
def served(name: str, report: Report) -> Iterator[str]:
    """Run a provider's server; gives its address."""
    server = providers.provider(name).server()
    server.start()
    try:
        report.versions[f"{name} server"] = server_version(server.origin)
        yield server.url
    finally:
        server.stop()


def measure_provider(name: str, report: Report, scale: Scale, messages: int = 10_000) -> None:
    """All contestants of a provider, interleaved."""
    chosen = providers.provider(name)
    report.settings.update(chosen.SETTINGS)
    messages = max(4000, int(messages * scale.share))
    report.settings[f"{name} messages"] = f"{messages:,}, four times as many for what is quick"
    with served(name, report) as url:
        jobs = [
            Job(
                figure=Figure(suite=name, case=case, title=chosen.TITLES[case], contestant=contestant, loop=loop),
                spec=Spec(
                    suite=name, case=case, contestant=contestant, loop=loop, messages=messages * who.weight, url=url
                ),
                before=filling(name, who.backlog, url, spec.messages) if who.backlog else None,
            )
            for case, contestants in chosen.CASES.items()
            if case != FILL and case.startswith(scale.choice)
            for loop in loops()
            for contestant, who in contestants.items()
            if _there(who.needs, contestant)
            for number in (messages * who.weight,)
            for spec in (Spec(suite=name, case=case, contestant=contestant, loop=loop, messages=number, url=url),)
        ]
        report.figures += [job.figure for job in jobs]
        measure(jobs, scale.repeats, budget=scale.budget)


def _there(module: str, contestant: str) -> bool:
    if not module or importlib.util.find_spec(module.partition(".")[0]):
        return True
    progress(f"  {contestant} is not installed and takes no part")
    return False


def filling(name: str, contestant: str, url: str, messages: int) -> Callable[[], None]:
    """Return what loads a backlog before a repeat, in a process of its own."""

    def fill() -> None:
        run_child(Spec(suite=name, case=FILL, contestant=contestant, messages=messages, url=url))

    return fill


def measure_idle(report: Report, scale: Scale) -> None:
    """At rest, and behind; once each, on the usual loop."""
    with served("redis", report) as url:
        for name, case in idle.CASES.items():
            if not name.startswith(scale.choice):
                continue
            number = case.number if not case.backlog else max(50_000, int(case.number * scale.share))
            figure = Figure(suite="idle", case=name, title=case.title, metric=case.metric, unit=case.unit)
            also = {
                extra: Figure(suite="idle", case=name, title=title, metric=extra, unit=unit)
                for extra, (title, unit) in case.also.items()
            }
            spec = Spec(suite="idle", case=name, messages=number, url=url, seconds=scale.watch)
            before = filling("redis", "ductape", url, number) if case.backlog else None
            report.figures += [figure, *also.values()]
            measure([Job(figure=figure, spec=spec, before=before, also=also)], 1, budget=scale.budget)
