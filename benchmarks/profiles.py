"""Where the time of one measurement goes: `python -m benchmarks profile redis consume [CONTESTANT]`.

Only what the clock sees is profiled, by CPU time. A profiler makes Python calls look dearer than work done in C: it
ranks, it does not measure.
"""

from __future__ import annotations

import cProfile
import pstats
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from . import cases, kernel, providers
from .child import Spec, measured_here
from .load import Clock
from .results import Measured, new_report
from .runner import run_child
from .suites import served

MESSAGES = 20_000
LINES = 25
LIGHT, WATCH = 400, 10.0
SMALL = 0.03
LOOP = ("asyncio", "selectors", "concurrent", "threading", "contextvars")


def profile(suite: str, case: str, contestant: str = "ductape") -> str:
    """Profile one measurement in this process, and return the functions that took most, and the packages."""
    if suite == "kernel":
        messages = min(MESSAGES, kernel.CASES[case].messages)
        spec = Spec(suite=suite, case=case, messages=messages)
        return "\n".join(_lines(profiled(lambda: measured_here(spec))[0], messages))
    provider, chosen = providers.provider(suite), cases.CASES[case]
    with served(suite, provider, new_report({})) as url:
        messages = min(chosen.messages or MESSAGES, provider.backlog) if chosen.most else LIGHT
        spec = Spec(suite=suite, case=case, contestant=contestant, messages=messages, url=url, seconds=WATCH)
        if chosen.backlog and provider.keeps:
            run_child(msgspec.structs.replace(spec, fills=True))
        return "\n".join(_lines(profiled(lambda: measured_here(spec))[0], messages))


def profiled(measure: Callable[[], Measured]) -> tuple[dict[Any, Any], Measured]:
    """Measure, and return `pstats`' table of what the clock saw."""
    Clock.profile = cProfile.Profile(time.process_time)
    try:
        measured = measure()
        stats: dict[Any, Any] = pstats.Stats(Clock.profile).stats  # type: ignore[attr-defined]  # public, not annotated
    finally:
        Clock.profile = None
    return stats, measured


def shares(stats: dict[Any, Any]) -> dict[str, float]:
    """Return whose code took how much: kernel, adapter, codec, client, loop, and what only the system knows."""
    total = sum(row[2] for row in stats.values()) or 1.0
    found: defaultdict[str, float] = defaultdict(float)
    for (file, _, name), row in stats.items():
        if file != "~":
            found[_layer(file)] += row[2]
        elif "msgspec" in name:
            found["codec"] += row[2]
        elif "select." in name:
            found["waiting and threads"] += row[2]  # CPU of other threads shows where this one waits
        else:
            for (caller, _, _), part in row[4].items():
                found[_layer(caller)] += part[2]  # what is done in C counts for whoever asked for it
    ranked = sorted(found.items(), key=lambda one: one[1], reverse=True)
    return {name: round(share / total, 2) for name, share in ranked if share / total >= SMALL}


def _layer(file: str) -> str:
    name = package(file)
    if name == "ductape":
        return "kernel"
    if name.startswith("ductape_"):
        return "tracing" if name == "ductape_opentelemetry" else "adapter"
    if name in LOOP or file == "~":
        return "loop"
    return "benchmark" if name == "benchmarks" else "codec" if name == "msgspec" else "client"


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
