"""From native errors to faults: what every adapter's error table is applied with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from .errors import AdapterError, Fault

FaultTable = Sequence[tuple[type[BaseException], Fault]] | Callable[[BaseException], "Fault | None"]
"""Rows of (error class, fault), the first match counts; or a function, where one class carries many codes."""

T = TypeVar("T")


def translated(table: FaultTable, error: BaseException, *, clean: bool = True) -> AdapterError:
    """Return the `AdapterError` for a native error; anything unlisted is ``LOST``.

    Args:
        table: The adapter's table or classifying function.
        error: The native error.
        clean: Whether the native text is known to hold no payload or secret; else only its class is named.
    """
    if isinstance(error, AdapterError):
        return error
    if callable(table):
        fault = table(error)
    else:
        fault = next((fault for kind, fault in table if isinstance(error, kind)), None)
    text = f"{type(error).__name__}: {error}" if clean else type(error).__name__
    result = AdapterError(fault or Fault.LOST, text)
    result.__cause__ = error
    return result


@contextmanager
def translate(table: FaultTable, *, clean: bool = True) -> Iterator[None]:
    """Raise `AdapterError` for native errors raised inside.

    An `asyncio.CancelledError` that nobody asked for (some clients leak one when a connection dies) is ``LOST``.

    Args:
        table: The adapter's table or classifying function.
        clean: Whether native texts are known to hold no payload or secret.

    Raises:
        AdapterError: In place of any other exception.
    """
    try:
        yield
    except AdapterError:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise AdapterError(Fault.LOST, "the client cancelled its own call") from error
    except Exception as error:
        raise translated(table, error, clean=clean) from error


def each(table: FaultTable, act: Callable[[T], object], items: Sequence[T]) -> list[AdapterError | None]:
    """Apply `act` to every item and return one answer each: for clients without a bulk call."""
    answers: list[AdapterError | None] = []
    for item in items:
        try:
            act(item)
            answers.append(None)
        except Exception as error:
            answers.append(translated(table, error))
    return answers
