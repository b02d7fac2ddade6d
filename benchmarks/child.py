"""One measurement in a process of its own: `python -m benchmarks.child SPEC` prints one line of JSON."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from .results import Measured

__all__ = ["Spec", "measured_here"]


class Spec(msgspec.Struct, kw_only=True, frozen=True):
    """What to measure."""

    suite: str
    case: str
    contestant: str = "ductape"
    loop: str = "asyncio"
    messages: int = 0
    url: str = ""
    """The server's address, for providers."""
    seconds: float = 0.0
    """How long to watch, where that matters."""
    fills: bool = False
    """Load the backlog of the case and contestant, instead of measuring."""
    profiled: bool = False
    """Say where the time goes, which makes it longer."""


def _coroutine(spec: Spec) -> Coroutine[Any, Any, Measured]:
    """Find what measures; only its own imports are made in this process."""
    if spec.suite == "kernel":
        from . import kernel

        return _coroutine_of(kernel.CASES[spec.case].run(spec.messages))
    if spec.suite == "counts":
        from . import counts

        return _coroutine_of(counts.CASES[spec.case].run())
    from . import cases

    return cases.run(spec)


async def _coroutine_of(work: Any) -> Measured:
    found: Measured = await work
    return found


def _factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if loop == "uvloop":
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return asyncio.new_event_loop


def measured_here(spec: Spec) -> Measured:
    """Measure in this process."""
    with asyncio.Runner(loop_factory=_factory(spec.loop)) as runner:
        if not spec.profiled:
            return runner.run(_coroutine(spec))
        from .profiles import profiled, shares

        stats, measured = profiled(lambda: runner.run(_coroutine(spec)))
        measured.shares = shares(stats)
        return measured


def main() -> None:
    """Measure what the argument says."""
    spec = msgspec.json.decode(sys.argv[1], type=Spec)
    measured = measured_here(spec)
    print(msgspec.json.encode(measured).decode())


if __name__ == "__main__":
    main()
