"""`python -m benchmarks`: see `USAGE`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from . import cases, counts, kernel, providers
from .report import compare, markdown, unsound
from .results import Report, new_report, progress
from .suites import SCALES, Choice, measure_kernel, measure_provider

USAGE = f"""\
python -m benchmarks [SUITE …] [CASE] [quick | full] [FILE.json]
python -m benchmarks compare BEFORE.json AFTER.json
python -m benchmarks page [FILE.json]
python -m benchmarks profile SUITE CASE [CONTESTANT]

SUITE   kernel {" ".join(providers.NAMES)}: all of them, if none is named
CASE    only cases whose name begins with this: publish, publish-1000, consume, latency … (benchmarks/cases.py); a case
        of the full form, as consume-64kB or backlog, where it is named whole
quick   two short rounds on one loop, about 5 minutes for everything; without: five rounds on both, at most 45
full    every case; interrupted, the same command goes on where it stopped
FILE    where the figures are kept as JSON (benchmarks/results/latest.json; latest-full.json for `full`)

Prints tables and goals (benchmarks/goals.toml), and what lost or repeated messages: then the status is 1.
compare   says what got slower or faster beyond the spread of both
page      takes the figures of FILE into the committed results, one file a suite, and writes docs/benchmarks.md anew
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
    if words[:1] == ["page"] and len(words) <= 2:
        return write_page(*map(Path, words[1:]))
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
    into = Path(files[0]) if files else RESULTS / ("latest-full.json" if form == "full" else "latest.json")
    suites = [word for word in SUITES if word in words] or list(SUITES)
    return measure(suites, form, rest[0] if rest else "", into)


def measure(suites: list[str], form: str, begins: str, into: Path) -> int:
    """Measure suites, print them, keep them; an interruption keeps what is there."""
    scale = SCALES[form]
    report = _begun(into, form)
    began, load = time.monotonic(), _load()
    try:
        for place, suite in enumerate(suites):
            progress(f"{suite}:")
            # What an earlier suite did not use, the others may.
            budget = (scale.budget - (time.monotonic() - began)) / (len(suites) - place)
            choice = Choice(scale=scale, begins=begins, budget=budget)
            if suite == "kernel":
                measure_kernel(report, choice, lambda: report.write(into))
            else:
                measure_provider(suite, report, choice, lambda: report.write(into))
        report.finished = True
    except KeyboardInterrupt:
        progress("interrupted: what was measured is kept")
    report.settings["load of the machine"] = f"{load} when it began, {_load()} when it ended"
    report.write(into)
    print(markdown(report))
    return 1 if unsound(report) else 0


def _load() -> str:
    """Return how many processes wanted to run in the last minute."""
    try:
        return f"{os.getloadavg()[0]:.1f}"
    except OSError:
        return "unknown"


def write_page(*results: Path) -> int:
    """Take results into the committed ones, and write the documentation's page."""
    from . import page

    for path in results:
        for kept in page.keep(Report.read(path)):
            progress(f"kept {kept.name}")
    for written in page.write():
        progress(f"wrote {written.name}")
    return 0


def _begun(into: Path, form: str) -> Report:
    """Return a new report, or, in the full form, the one that was interrupted on this machine with these versions."""
    scale = SCALES[form]
    settings = {
        "form": form,
        "repeats": f"{scale.repeats}, each in a fresh process, contestants interleaved",
        "CPU": "user and system of the client's process",
    }
    report = new_report(settings)
    if form != "full" or not into.exists():
        return report
    old = Report.read(into)
    same = old.machine == report.machine and old.versions["ductape"] == report.versions["ductape"]
    if old.finished or not same:
        return report
    progress(f"goes on where {into.name} was interrupted: {len(old.figures)} figures are there or begun")
    return old


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
