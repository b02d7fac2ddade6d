"""`python -m benchmarks`: see `USAGE`."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

from . import cases, counts, kernel, providers
from .report import compare, markdown, unsound
from .results import Report, fingerprint, new_report, progress
from .runner import OutOfTime, Pace, duration
from .suites import SCALES, Choice, measure_suite, planned

USAGE = f"""\
python -m benchmarks [SUITE …] [CASE] [quick | full] [FILE.json]
python -m benchmarks compare BEFORE.json AFTER.json
python -m benchmarks page [FILE.json [anyway]]
python -m benchmarks profile SUITE CASE [CONTESTANT]

SUITE   kernel {" ".join(providers.NAMES)}: all of them, if none is named
CASE    only cases whose name begins with this: publish, publish-1000, consume, latency … (benchmarks/cases.py); a case
        of the full form, as consume-64kB or backlog, where it is named whole
quick   a short round on one loop, or two where there is time, at most 5 minutes for everything; without: five rounds
        on both, at most 45
full    every case
FILE    where the figures are kept as JSON; without, and where nothing is chosen but the form, they are taken into the
        committed results too, as by `page` (not those of `quick`)

Interrupted, the same command goes on where it stopped, unless sources were changed. When time is short, later rounds
are left out, for all contestants alike.
Prints tables and goals (benchmarks/goals.toml), and what lost or repeated messages: then the status is 1.
compare   says what got slower or faster beyond the spread of both
page      takes the cases that FILE measured into the committed results, and writes docs/benchmarks.md anew; figures of
          the form `quick` only with `anyway`
profile   says where the time of one measurement goes
"""
SUITES = ("kernel", *providers.NAMES)
RESULTS = Path(__file__).with_name("results")


def main(words: list[str]) -> int:
    """Measure, or compare, as the words say; returns the exit status."""
    words = [word.removeprefix("--") for word in words if word != "--"]
    if {"help", "-h"} & set(words):
        print(USAGE)
        return 0
    if words[:1] == ["compare"] and len(words) == 3:
        print(compare(Report.read(Path(words[1])), Report.read(Path(words[2]))))
        return 0
    if words[:1] == ["profile"] and len(words) in (3, 4):
        from .profiles import profile

        print(profile(*words[1:]))
        return 0
    if words[:1] == ["page"] and len(words) <= 2 + (words[2:] == ["anyway"]):
        return write_page(*map(Path, words[1:2]), anyway="anyway" in words)
    files = [word for word in words if word.endswith(".json")]
    form = next((word for word in words if word in SCALES), "usual")
    rest = [word for word in words if word not in (*SUITES, *files, form)]
    known = (*cases.CASES, *kernel.CASES, *counts.CASES, "import")
    if wrong := [word for word in rest if not any(case.startswith(word) for case in known)]:
        print(f"no suite, and no case, is called {' or '.join(wrong)}\n\n{USAGE}")
        return 2
    if len(files) > 1 or len(rest) > 1 or {"compare", "page", "profile"} & set(words):
        print(USAGE)
        return 2
    suites = [word for word in SUITES if word in words]
    name = "-".join(["latest", *suites, *rest, *([] if form == "usual" else [form])])
    into = Path(files[0]) if files else RESULTS / f"{name}.json"
    status = measure(suites or list(SUITES), form, rest[0] if rest else "", into)
    if form != "quick" and not (suites or rest or files) and Report.read(into).finished:
        write_page(into)
    return status


def measure(suites: list[str], form: str, begins: str, into: Path) -> int:
    """Measure suites, print them, keep them; an interruption keeps what is there."""
    scale, report = SCALES[form], _begun(into, form)
    choice = Choice(scale=scale, begins=begins)
    began, load = time.monotonic(), _load()
    earlier = {name: Report.read(path) for name in suites if (path := RESULTS / f"{name}.json").exists()}
    plans = [planned(name, report, choice, earlier.get(name)) for name in suites]
    takes = sum(plan.takes(scale.repeats) for plan in plans)
    progress(f"about {duration(min(takes, scale.budget))}, at most {duration(scale.end)}")
    for plan in plans:
        progress(f"  {plan.name}: {len(plan.jobs)} figures, {duration(plan.takes(scale.repeats))}")
    try:
        while plans:
            plan = plans.pop(0)
            left = scale.budget - (time.monotonic() - began)
            mine, rest = plan.takes(scale.repeats), sum(each.takes(scale.repeats) for each in plans)
            progress(f"{plan.name}: {duration(time.monotonic() - began)} passed, about {duration(left)} left for all")
            pace = Pace(
                repeats=scale.repeats,
                seconds=scale.seconds,
                # Its share, or what the others will not need: guesses are rather too high.
                budget=max(left * mine / max(mine + rest, 1.0), left - 0.85 * rest) - plan.boot,
                until=began + scale.end,
                child=scale.child,
                profiles=form != "quick",
            )
            measure_suite(plan, report, choice, pace, lambda: report.write(into), partial(min, rest, left))
        report.finished = True
    except OutOfTime:
        missing = dict.fromkeys(
            f"{each.suite} {each.case}" for each in report.figures if not (each.samples or each.notes)
        )
        report.settings["left out for want of time"] = ", ".join(missing) or "later repeats"
        progress(f"the time is up; left out: {report.settings['left out for want of time']}")
        report.finished = True
    except KeyboardInterrupt:
        progress("interrupted: what was measured is kept; the same command goes on")
    report.settings["load of the machine"] = f"{load} when it began, {_load()} when it ended"
    report.write(into)
    print(markdown(report))
    return 1 if unsound(report) or not report.finished else 0


def _load() -> str:
    """Return how many processes wanted to run in the last minute."""
    try:
        return f"{os.getloadavg()[0]:.1f}"
    except OSError:
        return "unknown"


def write_page(*results: Path, anyway: bool = False) -> int:
    """Take results into the committed ones, and write the documentation's page."""
    from . import page

    for path in results:
        report = Report.read(path)
        if report.settings["form"] == "quick" and not anyway:
            progress(f"{path.name} is of the form quick: its figures replace no others, unless you add `anyway`")
            return 2
        for kept in page.keep(report):
            progress(f"kept {kept.name}")
    for written in page.write():
        progress(f"wrote {written.name}")
    return 0


def _begun(into: Path, form: str) -> Report:
    """Return a new report, or the one that was interrupted, of the same sources on this machine."""
    scale = SCALES[form]
    settings = {
        "form": form,
        "repeats": f"{scale.repeats}, each in a fresh process, contestants interleaved",
        "CPU": "user and system of the client's process",
        "sources": fingerprint(),
    }
    report = new_report(settings)
    if not into.exists():
        return report
    try:
        old = Report.read(into)
    except ValueError:
        return report
    if old.finished or old.machine != report.machine or old.settings.get("form") != form:
        return report
    if old.settings.get("sources") != settings["sources"]:
        progress(f"{into.name} was interrupted, and sources were changed since: all is measured anew")
        return report
    progress(f"goes on where {into.name} was interrupted: {sum(bool(each.samples) for each in old.figures)} figures")
    return old


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
