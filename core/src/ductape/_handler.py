"""A handler's signature, read once, and the call that is made of it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import msgspec

from ._event import Event
from .errors import HandlerError

Handler = Callable[..., Any]
Handle = Callable[[Any], Awaitable[object]]
"""Handles one `Event`, or a list of them for a batch handler."""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler takes."""

    name: str
    takes: tuple[bool, ...]
    """For each positional argument: is it the envelope? Otherwise it is the payload."""
    payload: Any
    """The type that payloads are decoded to; of one element for a batch handler."""
    batch: bool
    asynchronous: bool


def read_signature(handler: Any, *, batch: bool = False) -> Signature:
    """Read what a handler takes.

    Args:
        handler: A function, method, partial or callable object.
        batch: It takes lists.

    Raises:
        HandlerError: ``HANDLER_INVALID`` if no call can serve its signature.
    """
    name = getattr(handler, "__qualname__", None) or type(handler).__qualname__
    if inspect.iscoroutine(handler):
        handler.close()  # else Python warns that nobody awaited it
        raise _invalid(name, f"you called it: pass {name}, not {name}(…)")
    if not callable(handler):
        raise HandlerError("HANDLER_INVALID", f"handler {handler!r} cannot be called.", handler=name)
    target = _function(handler)
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise _invalid(name, "it yields, so calling it runs nothing; return instead, or use event.stream")
    parameters = _parameters(handler, name)
    hints = _hints(target, name)
    takes: list[bool] = []
    payload: Any = Any
    for parameter in parameters:
        kind = hints.get(parameter.name, Any)
        if batch:
            kind = _element(kind, parameter.name, name)
        envelope, inner = _envelope(kind)
        if envelope in takes:
            what = "the Event" if envelope else "the payload"
            raise _invalid(name, f"two parameters would both get {what}; annotate one of them Event, or drop it")
        takes.append(envelope)
        payload = inner if payload is Any else payload
    if not takes:
        raise _invalid(name, "it takes no argument; give it one for the payload, or one annotated Event")
    asynchronous = inspect.iscoroutinefunction(target)
    return Signature(name=name, takes=tuple(takes), payload=payload, batch=batch, asynchronous=asynchronous)


def _parameters(handler: Handler, name: str) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError) as error:
        raise _invalid(name, f"its signature cannot be read ({error})") from error
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [p for p in parameters if p.kind in positional and p.default is p.empty]
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise _invalid(name, f"keyword-only parameter {parameter.name!r} needs a default")
        if parameter.kind is parameter.VAR_POSITIONAL and not found:
            raise _invalid(name, f"'*{parameter.name}' does not say what it takes; name the parameter")
    if not found:  # a parameter with a default is better than none
        found = [p for p in parameters if p.kind in positional][:1]
    return found


def _function(handler: Handler) -> Any:
    """The function behind a partial or a callable object."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    plain = inspect.isfunction(handler) or inspect.ismethod(handler) or inspect.isclass(handler)
    return handler if plain else type(handler).__call__


def _hints(target: Any, name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target)
    except Exception as error:
        raise _invalid(name, f"its annotations cannot be read ({type(error).__name__}: {error})") from error


def _element(kind: Any, parameter: str, name: str) -> Any:
    """The element type of a batch handler's parameter."""
    if kind is Any or kind is list:
        return Any
    origin = typing.get_origin(kind)
    if origin is list or origin is Sequence:
        return typing.get_args(kind)[0]
    raise _invalid(name, f"with batch= its parameter {parameter!r} gets a list; annotate it list[…], not {kind!r}")


def _envelope(kind: Any) -> tuple[bool, Any]:
    if kind is Event:
        return True, Any
    if typing.get_origin(kind) is Event:
        return True, typing.get_args(kind)[0]
    return False, kind


def _invalid(name: str, why: str) -> HandlerError:
    return HandlerError("HANDLER_INVALID", f"handler {name!r}: {why}.", handler=name)


def build(handler: Handler, signature: Signature, executor: Callable[[], Executor]) -> Handle:
    """Return the call that serves a handler: it takes an `Event`, or a list of them.

    Args:
        handler: The application's.
        signature: What it takes.
        executor: Gives the thread pool for plain functions.
    """
    arguments = _batch_arguments(signature) if signature.batch else _arguments(signature)
    if not signature.asynchronous:
        return _threaded(handler, arguments, executor)
    if signature.takes == (True,):
        return handler
    if signature.takes == (False,) and not signature.batch:
        return lambda event: handler(event.message)

    async def call(event: Any) -> object:
        return await handler(*arguments(event))

    return call


def _arguments(signature: Signature) -> Callable[[Any], tuple[Any, ...]]:
    return {
        (False,): lambda event: (event.message,),
        (True,): lambda event: (event,),
        (False, True): lambda event: (event.message, event),
        (True, False): lambda event: (event, event.message),
    }[signature.takes]


def _batch_arguments(signature: Signature) -> Callable[[Any], tuple[Any, ...]]:
    def arguments(events: list[Event[Any]]) -> tuple[Any, ...]:
        return tuple(events if envelope else [event.message for event in events] for envelope in signature.takes)

    return arguments


def _threaded(
    handler: Handler, arguments: Callable[[Any], tuple[Any, ...]], executor: Callable[[], Executor]
) -> Handle:
    async def call(event: Any) -> object:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(executor(), context.run, handler, *arguments(event))
        return await result if inspect.isawaitable(result) else result

    return call
