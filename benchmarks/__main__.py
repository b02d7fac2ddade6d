"""`python -m benchmarks`: see `usage`."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from . import providers
from .report import compare, lost_or_twice, markdown
from .results import Report, new_report, progress
from .suites import QUICK, Scale, loops, measure_idle, measure_kernel, measure_provider

USAGE = """\
python -m benchmarks [kernel] [redis] [idle] [quick] [publish | consume | …] [FILE.json]
python -m benchmarks compare BEFORE.json AFTER.json

Measures the suites that are named (none: all of them), prints tables, and keeps the figures as JSON in FILE
(benchmarks/results/latest.json). `quick` repeats less; any other word chooses the cases that begin with it.
"""
SUITES = ("kernel", *providers.NAMES, "idle")
RESULTS = Path(__file__).with_name("results") / "latest.json"


def main(words: list[str]) -> int:
    """Measure, or compare, as the words say; returns the exit status: 1 if a run lost or repeated messages."""
    words = [word.removeprefix("--") for word in words]
    if "help" in words or "-h" in words:
        print(USAGE)
        return 0
    if words[:1] == ["compare"]:
        if len(words) != 3:
            print(USAGE)
            return 2
        print(compare(Report.read(Path(words[1])), Report.read(Path(words[2]))))
        return 0
    files = [word for word in words if word.endswith(".json")]
    suites = [word for word in SUITES if word in words] or list(SUITES)
    rest = [word for word in words if word not in (*SUITES, *files, "quick")]
    if len(files) > 1 or len(rest) > 1:
        print(USAGE)
        return 2
    return measure(suites, "quick" in words, rest[0] if rest else "", Path(files[0]) if files else RESULTS)


def measure(suites: list[str], quick: bool, choice: str, into: Path) -> int:
    """Measure suites, print them, keep them; an interruption keeps what is there."""
    scale = msgspec.structs.replace(QUICK if quick else Scale(), choice=choice)
    report = new_report(
        {
            "repeats": str(scale.repeats),
            "loops": ", ".join(loops()),
            "messages": f"{scale.share:g} of each case's number",
            "CPU": "user and system of the client process; fresh process for each repeat, contestants interleaved",
        }
    )
    try:
        for suite in suites:
            progress(f"{suite}:")
            if suite == "kernel":
                measure_kernel(report, scale)
            elif suite == "idle":
                measure_idle(report, scale)
            else:
                measure_provider(suite, report, scale)
    except KeyboardInterrupt:
        progress("interrupted: what was measured is kept")
    report.write(into)
    print(markdown(report))
    unsound = lost_or_twice(report)
    if unsound:
        print("\nNot sound:\n" + "\n".join(f"- {line}" for line in unsound))
    return 1 if unsound else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
