"""Measurements in fresh processes, one after the other, interleaved: noise meets every contestant alike."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from .child import Spec
from .results import Figure, Measured, progress

ROOT = Path(__file__).parents[1]
CHILD_SECONDS = 180.0
"""No measurement takes longer; one that does is ended and said to have failed."""


class Failed(Exception):
    """A measurement did not end well; the text is the last line it printed."""


class Job(msgspec.Struct, kw_only=True):
    """A figure, and how its repeats come about."""

    figure: Figure
    spec: Spec
    before: Callable[[], None] | None = None
    """Run before each repeat, outside of the measurement: fills a backlog."""
    also: dict[str, Figure] = {}
    """Figures that are read from `Measured.extra`."""


def run_child(spec: Spec, seconds: float = CHILD_SECONDS) -> Measured:
    """Measure once, in a process of its own.

    Raises:
        Failed: It ended with an error, or not in time.
    """
    command = [sys.executable, "-m", "benchmarks.child", msgspec.json.encode(spec).decode()]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"not done within {seconds:g} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Failed(lines[-1] if lines else f"status {done.returncode}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Measured)


def _environment() -> dict[str, str]:
    # Debug modes of the surroundings would be measured instead of the library.
    unwanted = ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONTRACEMALLOC", "PYTHONPROFILEIMPORTTIME")
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def measure(jobs: Sequence[Job], repeats: int, *, budget: float) -> None:
    """Fill the figures of `jobs`.

    Args:
        jobs: What to measure; each round measures each of them once.
        repeats: Rounds.
        budget: Seconds after which no further round begins.
    """
    began = time.monotonic()
    for number in range(repeats):
        if number and time.monotonic() - began > budget:
            progress(f"  {budget:g} s are over: {number} rounds instead of {repeats}")
            return
        for job in jobs:
            figure = job.figure
            try:
                if job.before is not None:
                    job.before()
                measured = run_child(job.spec)
            except Failed as error:
                if (note := f"FAILED: {error}") not in figure.notes:
                    figure.notes.append(note)
                progress(f"  {figure.title}, {figure.contestant}, {figure.loop}: FAILED: {error}")
                continue
            figure.add(measured)
            for name, other in job.also.items():
                if name in measured.extra:
                    other.samples.append(measured.extra[name])
            text = f"{measured.value:9.2f} {figure.unit}  {figure.title}, {figure.contestant}, {figure.loop}"
            progress(f"  {number + 1}/{repeats} {text} {' '.join(measured.notes)}")
