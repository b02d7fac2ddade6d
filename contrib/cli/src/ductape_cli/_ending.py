"""Commands that go on until a signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ending"]


@contextmanager
def ending(ended: asyncio.Event) -> Iterator[None]:
    """Have SIGINT and SIGTERM set an event, instead of what they do else."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, ended.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
