"""Measurements in fresh processes, one after the other, interleaved: noise meets every contestant alike."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from .child import Spec
from .results import Figure, Measured, progress

ROOT = Path(__file__).parents[1]
CHILD_SECONDS = 180.0
"""No measurement takes longer; one that does is ended and said to have failed."""
FIRST = 500
"""Messages of a first run at least, where no result tells how many make a run of the wanted length; not counted."""
WAITING = 4
"""A run may last so many times as long as its CPU is wanted to."""
PROCESS = 1.2
"""Seconds that a process takes beside what it measures, before any was seen: imports, connections, counting."""


class Failed(Exception):
    """A measurement did not end well; the text is the last line it printed."""


class OutOfTime(Exception):
    """The run's time is up: what was measured is there, and nothing else is begun."""


class Job(msgspec.Struct, kw_only=True):
    """A figure, and how its repeats come about."""

    figure: Figure
    spec: Spec
    before: Spec | None = None
    """Run before each repeat, in a process of its own, not measured: fills a backlog."""
    most: int = 0
    """The number of messages is found by a first run, and is at most this; 0: it is given in `spec`."""
    least: int = 0
    earlier: Figure | None = None
    """What an earlier run found: it tells how many messages make a run of the wanted length, and how long it takes."""
    seconds: float = 0.0
    """Of the measured part, about."""
    once: bool = False
    """One repeat is enough."""

    def due(self, repeats: int) -> int:
        """Return how many of so many repeats are to be made."""
        return 0 if _is_hopeless(self) else max(0, (1 if self.once else repeats) - len(self.figure.samples))

    @property
    def takes(self) -> float:
        """Seconds that a repeat takes, with all that belongs to it."""
        for figure in (self.figure, self.earlier):
            if figure is not None and (took := figure.extra.get("took")):
                return sum(took) / len(took)
        return PROCESS * (1 if self.before is None else 2) + self.seconds


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How long it may take."""

    repeats: int
    seconds: float
    """CPU of the measured part of a run, where the number of messages is free."""
    budget: float
    """Seconds after which no further round begins, nor one that would not end within them."""
    until: float = float("inf")
    """The moment, of `time.monotonic`, at which everything ends."""
    child: float = CHILD_SECONDS
    """Seconds that one process may take."""
    profiles: bool = False
    """What misses a goal is run once more, profiled."""


def time_of(jobs: Iterable[Job], repeats: int) -> float:
    """Return the seconds that so many repeats of jobs will take, about."""
    return sum(job.due(repeats) * job.takes for job in jobs)


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
        raise Failed(reason(done.stderr) or f"status {done.returncode}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Measured)


def reason(printed: str) -> str:
    """Return what ended a process: the line below its first traceback, not what is said of objects left behind."""
    _, begin, rest = printed.partition("Traceback (most recent call last):\n")
    # One that was raised from another stands below it.
    chain = re.split(r"\n\n(?:The above exception|During handling)[^\n]*:\n\n", rest)
    lines = [line for line in chain[-1].splitlines() if line and not line.startswith((" ", "Traceback"))]
    return lines[0] if begin and lines else (printed.strip().splitlines() or [""])[-1]


def _environment() -> dict[str, str]:
    # Debug modes of the surroundings would be measured instead of the library.
    unwanted = ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONTRACEMALLOC", "PYTHONPROFILEIMPORTTIME")
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def measure(jobs: Sequence[Job], pace: Pace, save: Callable[[], None], rest: Callable[[], float] = lambda: 0.0) -> None:
    """Fill the figures of `jobs`; what they have already is kept.

    Args:
        jobs: What to measure; each round measures each of them once.
        pace: How often, and for how long.
        save: Called after every measurement.
        rest: Seconds that others will take afterwards, for the person who waits.

    Raises:
        OutOfTime: `pace.until` came.
    """
    began = time.monotonic()
    _size(jobs, pace)
    for number in range(1, pace.repeats + 1):
        due = [job for job in jobs if job.due(number)]
        took = time.monotonic() - began
        if number > 1 and due and took + time_of(due, number) > pace.budget:
            progress(f"  {pace.budget:.0f} s do not hold another round: {number - 1} instead of {pace.repeats}")
            return
        for job in due:
            _repeat(job, f"{number}/{pace.repeats}", pace)
            save()
        left = time_of(jobs, pace.repeats)
        if due:
            progress(f"  about {duration(min(left, pace.budget) + rest())} to go")


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


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
            found[name] = _wanted(job, pace)
        job.spec = msgspec.structs.replace(spec, messages=found[name])


def _wanted(job: Job, pace: Pace) -> int:
    """Return how many messages make a run of the wanted length."""
    cost = wall = 0.0
    if job.earlier is not None and job.earlier.samples:
        cost, wall = job.earlier.median, job.earlier.of("wall") or 0.0
    else:
        progress(f"  how many: {job.figure.title}, {job.spec.contestant}")
        try:
            first = _run(job, max(FIRST, job.least), pace)
        except Failed as error:
            _failed(job, error)  # it is not run again
            return job.least
        cost, wall = first.value, first.extra["wall"]
    # So much CPU, or, where most is waiting (joining a group, a slow server), some times as long.
    wanted = int(pace.seconds * 1e6 / max(cost, wall / WAITING)) // 100 * 100
    return max(job.least, min(job.most, wanted))


def _repeat(job: Job, turn: str, pace: Pace) -> None:
    began = time.monotonic()
    try:
        measured = _run(job, job.spec.messages, pace)
    except Failed as error:
        _failed(job, error)
        return
    figure = job.figure
    measured.extra["took"] = round(time.monotonic() - began, 1)
    figure.add(measured)
    text = f"{measured.value:9.2f} {figure.unit}  {figure.title}, {figure.contestant}, {figure.loop}"
    progress(f"  {turn} {text} {' '.join(measured.notes)}".rstrip())


def profile(job: Job, pace: Pace) -> None:
    """Say where the time of a figure goes, by a run that does not count."""
    spec = job.spec
    job.spec = msgspec.structs.replace(spec, profiled=True)
    try:
        job.figure.shares = _run(job, spec.messages, pace).shares
    except Failed as error:
        progress(f"  {job.figure.title}: no profile: {error}")
    finally:
        job.spec = spec


def _run(job: Job, messages: int, pace: Pace) -> Measured:
    if job.before is not None:
        _in_time(msgspec.structs.replace(job.before, messages=messages, url=job.spec.url), pace)
    return _in_time(msgspec.structs.replace(job.spec, messages=messages), pace)


def _in_time(spec: Spec, pace: Pace) -> Measured:
    left = pace.until - time.monotonic()
    if left <= 0:
        raise OutOfTime
    try:
        return run_child(spec, min(pace.child, left))
    except Failed:
        if left < pace.child and time.monotonic() >= pace.until:
            raise OutOfTime from None  # it was ended by us: that says nothing about it
        raise


def _failed(job: Job, error: Failed) -> None:
    figure = job.figure
    figure.note(f"FAILED: {error}")
    progress(f"  {figure.title}, {figure.contestant}, {figure.loop}: FAILED: {error}")


def _is_hopeless(job: Job) -> bool:
    """Say whether it failed before: a bound that was overstayed once is not waited for five times."""
    return any(note.startswith("FAILED") for note in job.figure.notes)
