"""Where the time of one measurement goes: `python -m benchmarks profile redis consume [CONTESTANT]`.

Only what the clock sees is profiled, by CPU time. A profiler makes Python calls look dearer than work done in C: it
ranks, it does not measure.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from . import cases, providers
from .child import Spec
from .load import Clock
from .results import new_report
from .runner import run_child
from .suites import served

MESSAGES = 20_000
LINES = 25


def profile(suite: str, case: str, contestant: str = "ductape") -> str:
    """Profile one measurement in this process, and return the functions that took most, and the packages."""
    provider = providers.provider(suite)
    with served(suite, provider, new_report({})) as url:
        spec = Spec(suite=suite, case=case, contestant=contestant, messages=min(MESSAGES, provider.backlog), url=url)
        if cases.CASES[case].backlog and provider.keeps:
            run_child(msgspec.structs.replace(spec, fills=True))
        Clock.profile = cProfile.Profile(time.process_time)
        asyncio.run(cases.run(spec))
        stats = pstats.Stats(Clock.profile)
    return "\n".join(_lines(stats.stats, spec.messages))  # type: ignore[attr-defined]  # public, not annotated


def _lines(stats: dict[Any, Any], messages: int) -> list[str]:
    total = sum(row[2] for row in stats.values())
    first = sorted(stats.items(), key=lambda item: item[1][2], reverse=True)[:LINES]
    lines = ["| share | calls a message | |", "|--:|--:|---|"]
    lines += [
        f"| {row[2] / total:.1%} | {row[1] / messages:.2f} | {package(file)} {Path(file).name} {name} |"
        for (file, _, name), row in first
    ]
    shares: defaultdict[str, float] = defaultdict(float)
    for (file, _, _), row in stats.items():
        if file != "~":
            shares[package(file)] += row[2]
        for (caller, _, _), part in row[4].items() if file == "~" else ():
            shares[package(caller)] += part[2]  # what is done in C counts for whoever asked for it
    most = sorted(shares.items(), key=lambda item: item[1], reverse=True)[:6]
    said = ", ".join(f"{name} {share / total:.0%}" for name, share in most)
    return [*lines, "", f"By package, with what it calls in C: {said}."]


def package(file: str) -> str:
    """Return the package that a file belongs to."""
    parts = Path(file).parts
    for place, part in enumerate(parts[:-1]):
        if part in ("src", "site-packages", "dist-packages") or part.startswith("python3."):
            found = parts[place + 1]
            if found != "site-packages":
                return found.removesuffix(".py")
    return "benchmarks" if "benchmarks" in parts else ""
