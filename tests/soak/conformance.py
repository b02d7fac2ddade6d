"""The conformance kit, many times in a row: what passes once must pass always.

    python -m tests.soak.conformance              20 runs of all of `SUITES`, on both loops; writes a report each
    python -m tests.soak.conformance 3 memory     3 runs of one; writes nothing
    python -m tests.soak.conformance 20 redis     20 runs of one; writes its report

Each run has a process of its own, with servers of its own, and makes up other random histories than the one before.
A scenario that fails is counted with the run that shows it: nothing is tried again.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
REPORTS = Path(__file__).with_name("reports")
SUITES = {
    "memory": "adapters/memory/tests/test_conformance.py",
    "directory": "contrib/directory/tests/test_conformance.py",
    "redis": "adapters/redis/tests/test_conformance.py",
}
"""What is played; an adapter that comes adds its module."""
TIMES = 20
AT_ONCE = 4
"""Runs that go on at a time: on a real server most of one is waiting for leases, and one after the other takes hours.
More than processors, so that scenarios are also short of them."""
EXAMPLES = 2.0
"""How many times as many random histories as in the tests."""
LIMIT = 3600.0
"""Seconds for one run of one module."""


class Turn(NamedTuple):
    """One run of one module."""

    suites: list[dict[str, Any]]
    """As the kit reports them."""
    seconds: float
    error: str
    """Why there is no report."""
    said: str = ""
    """What pytest printed, where something failed."""


def failures(turn: Turn) -> list[dict[str, Any]]:
    """Return what failed in one run."""
    return [row for suite in turn.suites for row in suite["scenarios"] if row["outcome"] == "fail"]


def play(path: str, seed: int) -> Turn:
    """Play a module once, in a process of its own."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path, "--timeout=600"]
        command += [f"--ductape-report={report}", f"--ductape-seed={seed}", f"--ductape-examples={EXAMPLES}"]
        command += ["-n", "2"]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return Turn([], LIMIT, f"seed {seed}: it did not end within {LIMIT:g} s")
        seconds = time.monotonic() - began
        if not report.exists():
            return Turn([], seconds, f"seed {seed}: status {done.returncode}, no report: {done.stdout[-500:]}")
        suites: list[dict[str, Any]] = json.loads(report.read_text())["suites"]
        error = "" if done.returncode in (0, 1) else f"seed {seed}: status {done.returncode}"
        return Turn(suites, seconds, error, done.stdout if done.returncode else "")


def table(turns: Sequence[Turn]) -> str:
    """Return the figures of one module: a row a suite, and what failed."""
    counts: dict[str, Counter[str]] = {}
    failed: Counter[str] = Counter()
    for turn in turns:
        for suite in turn.suites:
            test = suite["test"].rpartition("::")[2]
            mine = counts.setdefault(test, Counter())
            mine["runs"] += 1
            for row in suite["scenarios"]:
                mine[row["outcome"]] += 1
                if row["outcome"] == "fail":
                    failed[f"{test}[{row['scenario']}-{row['loop']}]: {row['reason'][:200]}"] += 1
    slowest = max(turn.seconds for turn in turns)
    lines = ["", "| suite | runs | passed | failed | skipped |", "|---|---|---|---|---|"]
    lines += [
        f"| {test} | {mine['runs']} | {mine['pass']} | {mine['fail']} | {mine['skipped']} |"
        for test, mine in sorted(counts.items())
    ]
    lines.append(f"\n{len(turns)} runs; the slowest took {slowest:.0f} s.")
    lines += [f"\n- {number} times: {what}" for what, number in failed.most_common()]
    lines += [f"\n- {turn.error}" for turn in turns if turn.error]
    return "\n".join(lines) + "\n"


def heading(name: str, times: int) -> str:
    """Say what was run, on what."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("ductape-conformance", "ductape-core"))
    where = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {packages}"
    return (
        f"# Soak report: conformance of {name}\n\nThe kit {times} times, up to {AT_ONCE} runs at once, on asyncio and "
        f"uvloop, on {datetime.now(UTC).date()}, {where}. Random histories are others in each run.\n"
    )


def main(times: str = str(TIMES), part: str = "") -> int:
    """Play what is wanted; the status is 1 if anything failed, or 2 if there is nothing to play."""
    if not times.isdecimal() or int(times) < 1 or not any(part in name for name in SUITES):
        print(f"say how many times, from 1, and one of {', '.join(SUITES)}; not {times!r} {part!r}", file=sys.stderr)
        return 2
    turns: dict[str, list[Turn]] = {name: [] for name in SUITES if part in name}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        # Seeds in the order of runs: all modules go on beside one another, those that wait and those that compute.
        began = {
            pool.submit(play, SUITES[name], seed): (name, seed) for seed in range(1, int(times) + 1) for name in turns
        }
        for done in as_completed(began):
            name, seed = began[done]
            turn = done.result()
            turns[name].append(turn)
            print(f"{name}: run {seed}: {len(failures(turn))} failed, {turn.seconds:.0f} s {turn.error}", flush=True)
            print(turn.said, end="", flush=True)
    for name, mine in turns.items():
        text = heading(name, int(times)) + table(mine)
        print(text)
        if int(times) >= TIMES:
            REPORTS.mkdir(exist_ok=True)
            (REPORTS / f"conformance-{name}.md").write_text(text)
    return 1 if any(failures(turn) or turn.error for mine in turns.values() for turn in mine) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
