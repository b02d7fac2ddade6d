"""Handlers that are watched, and raise on demand instead of running."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ductape import Event
from ductape.errors import ConfigError

from ._records import Call

if TYPE_CHECKING:
    from ductape._engine import Declaration

__all__ = ["Failing", "Watch", "same"]

Handler = Callable[..., Any]
Cause = type[Exception] | Exception | Callable[[], Exception]


class Failing:
    """A handler that is to raise, until it did so often enough or `end`.

    Attributes:
        handler: Whose calls fail.
        left: How many still will; None: all of them.
        count: How many did.
    """

    def __init__(self, handler: Handler, error: Cause, times: int | None, when: Callable[[Any], object] | None) -> None:
        """Describe it.

        Raises:
            ConfigError: ``OPTION_INVALID``.
        """
        _check(error, times)
        self.handler, self.left, self.count = handler, times, 0
        self._error, self._when = error, when

    def end(self) -> None:
        """Let the handler run again."""
        self.left = 0

    def meant(self, handler: Handler, event: Any) -> bool:
        """Tell whether this call fails. For the bench."""
        return self.left != 0 and same(self.handler, handler) and (self._when is None or bool(self._when(event)))

    def take(self) -> Exception:
        """Count one call, and return what it raises. For the bench."""
        self.count += 1
        if self.left is not None:
            self.left -= 1
        error = self._error if isinstance(self._error, Exception) else self._error()
        if not isinstance(error, Exception):
            raise TypeError(f"bench.fail: {self._error!r} returned {error!r}, which is no exception")
        return error

    def __repr__(self) -> str:
        left = "every call" if self.left is None else f"{self.left} calls"
        return f"<Failing {_name(self.handler)}: {left} to come, {self.count} failed>"


class Watch:
    """Puts itself around handlers: notes their calls, and raises what was asked for."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin without failures; `now` is virtual time."""
        self.calls: list[tuple[Handler, Call]] = []
        self.failing: list[Failing] = []
        self.handlers: list[Handler] = []
        self._now = now
        self._lock = threading.Lock()

    def around(self, declaration: Declaration) -> Declaration:
        """Return the same subscription with a watched handler, which gets the envelope and passes on what is wanted."""
        signature, handler = declaration.signature, declaration.handler
        if signature.name == "stream":  # its reader is the test, or looks like a handler to nobody else
            return declaration
        self.handlers.append(handler)

        def arguments(given: Any) -> list[Any]:
            if signature.batch:
                return [given if envelope else [event.message for event in given] for envelope in signature.takes]
            return [given if envelope else given.message for envelope in signature.takes]

        async def awaited(given: Any) -> object:
            with self._noted(handler, given):
                return await handler(*arguments(given))

        def called(given: Any) -> object:  # in a thread of the pool, as the handler itself would be
            noted = self._noted(handler, given)
            with noted:
                result = handler(*arguments(given))
                if not inspect.isawaitable(result):
                    return result
                noted.later = True
            return _finished(noted, result)

        return msgspec.structs.replace(
            declaration,
            handler=awaited if signature.asynchronous else called,
            signature=msgspec.structs.replace(signature, takes=(True,)),
        )

    def _noted(self, handler: Handler, given: Event[Any] | Sequence[Event[Any]]) -> _Noted:
        events = [given] if isinstance(given, Event) else given
        calls = [
            Call(
                event=event.name,
                group=event.group,
                handler=_name(handler),
                message=event.message,
                id=event.id,
                key=event.key,
                attempt=event.attempt,
                at=self._now(),
            )
            for event in events
        ]
        with self._lock:  # plain functions run in threads
            self.calls += [(handler, call) for call in calls]
            plan = next((each for each in self.failing if each.meant(handler, given)), None)
            return _Noted(calls, plan.take() if plan is not None else None)


class _Noted:
    """The records of one call, open until it ends."""

    def __init__(self, calls: list[Call], error: Exception | None) -> None:
        self.later = False
        self._calls, self._error = calls, error

    def __enter__(self) -> None:
        if self._error is not None:
            self._end("failed", self._error)
            raise self._error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._end("failed", error)
        elif not self.later:
            self._end("done", None)

    def _end(self, outcome: str, error: BaseException | None) -> None:
        for call in self._calls:
            call.outcome, call.error = outcome, error


async def _finished(noted: _Noted, result: Awaitable[object]) -> object:
    """Await what a plain function returned."""
    noted.later = False
    with noted:
        return await result


def same(one: Handler, other: Handler) -> bool:
    """Tell whether two objects are one handler: bound methods are made anew, decorators wrap."""
    return one == other or inspect.unwrap(one) == inspect.unwrap(other)


def _name(handler: Handler) -> str:
    return getattr(handler, "__qualname__", None) or type(handler).__qualname__


def _check(error: object, times: object) -> None:
    if times is not None and (not isinstance(times, int) or isinstance(times, bool) or times < 1):
        text = f"bench.fail(times={times!r}): a number from 1, or None for every call."
        raise ConfigError("OPTION_INVALID", text, option="times")
    if isinstance(error, type) and issubclass(error, Exception):
        try:
            error()
        except TypeError as why:
            text = f"bench.fail: {error.__name__} cannot be made without arguments ({why}). Give an instance."
            raise ConfigError("OPTION_INVALID", text, option="error") from why
    elif not isinstance(error, Exception) and (isinstance(error, type) or not callable(error)):
        text = f"bench.fail: {error!r} is no exception, no class of exceptions, and no function that returns one."
        raise ConfigError("OPTION_INVALID", text, option="error")
