"""Middleware: functions from handler to handler, built once per publisher and subscription."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from ._event import Event, Message, Receipt
from ._records import Delivery, Settlement
from .errors import ConfigError

W = TypeVar("W", bound=Callable[..., Any])

log = logging.getLogger("ductape.middleware")

Publishing = Callable[[Message], Awaitable[Receipt]]
"""What sends one message and returns its receipt."""
Subscribing = Callable[[Any], Awaitable[object]]
"""What handles one `Event`, or a list of them where `SubscriberSite.batch` is true."""


class PublisherSite(msgspec.Struct, frozen=True, kw_only=True):
    """Where a publisher stands: what is constant for all its messages."""

    product: str
    env: str
    provider: str
    event: str
    channel: str


class SubscriberSite(msgspec.Struct, frozen=True, kw_only=True):
    """Where a subscription stands: what is constant for all its messages."""

    product: str
    env: str
    provider: str
    event: str
    channel: str
    group: str
    batch: bool
    stats: Callable[[], Mapping[str, float]]
    """The subscription's counters and gauges at the moment of the call, and ``oldest``: seconds for which the oldest
    delivery of its group is not settled. Empty once it has ended."""
    lag: Callable[[], Awaitable[int | None]]
    """Asks how many messages the group was not given yet; None where the provider cannot tell. On the client's loop."""


class Middleware:
    """The base of middleware; override what is needed. Any object with these methods will do.

    `publisher` and `subscriber` are called once, when a publisher or subscription opens; returning `next` costs
    nothing. Retries and dead letters happen outside, so that every attempt passes through. What a handler raises
    decides about its message, so re-raise it. A handler that is ended raises `asyncio.CancelledError`: with
    ``HANDLER_TIMEOUT`` as its argument where the subscription's `timeout` ended it.
    """

    def publisher(self, next: Publishing, site: PublisherSite) -> Publishing:
        """Return what sends a message, `next` or something around it."""
        return next

    def subscriber(self, next: Subscribing, site: SubscriberSite) -> Subscribing:
        """Return what handles an event, `next` or something around it."""
        return next

    def received(self, deliveries: Sequence[Delivery], site: SubscriberSite) -> None:
        """Observe what one call brought. Called once a batch."""

    def settled(self, settlements: Sequence[Settlement], seconds: float, site: SubscriberSite) -> None:
        """Observe what one call settled, and how long it took. Called once a batch."""

    def moved(self, event: Event[Any], where: str, reason: str, site: SubscriberSite) -> None:
        """Observe a message that was stored again: `where` is ``dead`` or ``retry``."""


def has(middleware: object, method: str) -> bool:
    """Tell whether a middleware defines a method itself."""
    found = getattr(type(middleware), method, None)
    return found is not None and found is not getattr(Middleware, method)


def check_middleware(middleware: object) -> object:
    """Return an object that can serve as middleware.

    Raises:
        ConfigError: ``OPTION_INVALID`` if it has none of the methods.
    """
    known = ("publisher", "subscriber", "received", "settled", "moved")
    if isinstance(middleware, type) or not any(callable(getattr(middleware, name, None)) for name in known):
        text = f"middleware {middleware!r}: give an entry point's name, or an object with some of {', '.join(known)}."
        raise ConfigError("OPTION_INVALID", text)
    return middleware


def wrap(middleware: Sequence[object], method: str, innermost: W, site: PublisherSite | SubscriberSite) -> W:
    """Wrap what sends (`method`: ``publisher``) or handles (``subscriber``); the first middleware is the outermost."""
    for each in reversed(middleware):
        if has(each, method):
            innermost = getattr(each, method)(innermost, site)
    return innermost


def observers(middleware: Sequence[object], method: str) -> list[Callable[..., None]]:
    """Return the observers of this name, outermost first; one that fails is logged, and changes nothing."""
    return [_harmless(getattr(each, method)) for each in middleware if has(each, method)]


def _harmless(observe: Callable[..., None]) -> Callable[..., None]:
    def call(*args: object) -> None:
        try:
            observe(*args)
        except Exception:
            log.exception("middleware: the observer %r failed", getattr(observe, "__qualname__", observe))

    return call
