"""Running until a signal, and ending in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

log = logging.getLogger("ductape")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """The first signal asks to stop; the second ends the process at once."""

    def __init__(self, stop: Callable[[], object]) -> None:
        """Call `stop` at the first signal."""
        self._stop, self._loop = stop, asyncio.get_running_loop()
        self._before: dict[int, Any] = {}
        self._asked = 0.0

    def __enter__(self) -> Signals:
        for number in SIGNALS:
            self._before[number] = signal.getsignal(number)
            try:
                self._loop.add_signal_handler(number, self._arrived, number)
            except (NotImplementedError, RuntimeError):  # Windows, or a thread, which cannot be asked to stop
                with suppress(ValueError):
                    signal.signal(number, lambda n, _: self._loop.call_soon_threadsafe(self._arrived, n))
        return self

    def _arrived(self, number: int) -> None:
        now = self._loop.time()
        if self._asked and now - self._asked < 0.5:  # one signal: some senders tell a process and its group
            return
        if self._asked:
            log.warning("second signal: ended at once")
            os._exit(128 + number)
        self._asked = now
        log.info("signal %s: stopping in order; a second one ends at once", signal.Signals(number).name)
        self._stop()

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            with suppress(NotImplementedError, RuntimeError, ValueError):
                self._loop.remove_signal_handler(number)
            with suppress(ValueError, TypeError):
                signal.signal(number, before)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine on uvloop where it is installed, else on asyncio."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        factory = None
    else:
        factory = new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
