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
FIRST = 500
"""Messages of a first run at least; it tells how many make a run of the wanted length, and is not counted."""


WAITING = 4
"""A run may last so many times as long as its CPU is wanted to."""


class Failed(Exception):
    """A measurement did not end well; the text is the last line it printed."""


class Job(msgspec.Struct, kw_only=True):
    """A figure, and how its repeats come about."""

    figure: Figure
    spec: Spec
    before: Spec | None = None
    """Run before each repeat, in a process of its own, not measured: fills a backlog."""
    most: int = 0
    """The number of messages is found by a first run, and is at most this; 0: it is given in `spec`."""
    least: int = 0
    once: bool = False
    """One repeat is enough."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How long it may take."""

    repeats: int
    seconds: float
    """CPU of the measured part of a run, where the number of messages is free."""
    budget: float
    """Seconds after which no further round begins."""


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


def measure(jobs: Sequence[Job], pace: Pace, save: Callable[[], None]) -> None:
    """Fill the figures of `jobs`; what they have already is kept.

    Args:
        jobs: What to measure; each round measures each of them once.
        pace: How often, and for how long.
        save: Called after every round.
    """
    began = time.monotonic()
    _size(jobs, pace)
    save()
    for number in range(1, pace.repeats + 1):
        due = [job for job in jobs if len(job.figure.samples) < (1 if job.once else number) and not _is_hopeless(job)]
        round_began = time.monotonic()
        for job in due:
            _repeat(job, f"{number}/{pace.repeats}")
        save()
        now, left = time.monotonic(), pace.repeats - number
        took = now - round_began
        if due and left:
            progress(f"  {now - began:.0f} s; about {took * left:.0f} s to go")
        if left and now + took - began > pace.budget:
            progress(f"  {pace.budget:.0f} s do not hold another round: {number} instead of {pace.repeats}")
            return


def _size(jobs: Sequence[Job], pace: Pace) -> None:
    """Find how many messages make a run of the wanted length, alike for both loops."""
    found: dict[tuple[str, str, str], int] = {}
    for job in jobs:
        if not job.most:
            continue
        spec = job.spec
        name = (spec.suite, spec.case, spec.contestant)
        if known := job.figure.extra.get("messages"):
            found[name] = int(known[-1])
        elif name not in found:
            progress(f"  how many: {job.figure.title}, {spec.contestant}")
            wanted = 0
            try:
                first = _run(job, max(FIRST, job.least))
            except Failed as error:
                _failed(job, error)  # it is not run again
            else:
                # So much CPU, or, where most is waiting (joining a group, a slow server), some times as long.
                wanted = int(pace.seconds * 1e6 * min(1 / first.value, WAITING / first.extra["wall"])) // 100 * 100
            found[name] = max(job.least, min(job.most, wanted))
        job.spec = msgspec.structs.replace(spec, messages=found[name])


def _repeat(job: Job, turn: str) -> None:
    try:
        measured = _run(job, job.spec.messages)
    except Failed as error:
        _failed(job, error)
        return
    figure = job.figure
    figure.add(measured)
    text = f"{measured.value:9.2f} {figure.unit}  {figure.title}, {figure.contestant}, {figure.loop}"
    progress(f"  {turn} {text} {' '.join(measured.notes)}".rstrip())


def _run(job: Job, messages: int) -> Measured:
    if job.before is not None:
        run_child(msgspec.structs.replace(job.before, messages=messages))
    return run_child(msgspec.structs.replace(job.spec, messages=messages))


def _failed(job: Job, error: Failed) -> None:
    figure = job.figure
    figure.note(f"FAILED: {error}")
    progress(f"  {figure.title}, {figure.contestant}, {figure.loop}: FAILED: {error}")


def _is_hopeless(job: Job) -> bool:
    """Say whether it failed before: a bound that was overstayed once is not waited for five times."""
    return any(note.startswith("FAILED") for note in job.figure.notes)
