"""From items to a handler's call: decoding, envelope, session, middleware; compiled once per subscription."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from inspect import isawaitable
from typing import Any

from ._codec import Decoding
from ._event import Event, Session
from ._handler import Handle, Handler, Signature, build
from ._headers import CONTENT_TYPE
from ._lanes import Item
from ._middleware import SubscriberSite, wrap
from ._retry import Reject

Verify = Callable[[Session], Any]
"""Checks a session before the handler runs: falsy or an error refuses it. May be asynchronous."""
Read = Callable[[bytes, str | None], object]
Run = Callable[[Sequence[Item]], Awaitable[object]]


def compile_handling(
    handler: Handler,
    signature: Signature,
    decoding: Decoding,
    middleware: Sequence[object],
    site: SubscriberSite,
    sessions: Mapping[str, Verify],
    executor: Callable[[], Executor],
) -> Run:
    """Return what runs the handler for items: one item, or a batch of them."""
    innermost = build(handler, signature, executor)
    if sessions and not signature.batch:
        innermost = _checked(innermost, sessions)
    chain = wrap(middleware, "subscriber", innermost, site)
    if signature.batch:
        return _batches(decoding.read, chain, site, sessions)
    if chain is innermost and not sessions and signature.asynchronous and signature.takes == (False,):
        return _payloads(decoding.read, handler)
    return _events(decoding.read, chain, site)


def _payloads(read: Read, handler: Handler) -> Run:
    """The shortest way: a coroutine function that takes the payload alone."""

    def handle(items: Sequence[Item]) -> Awaitable[object]:
        delivery = items[0].delivery
        result: Awaitable[object] = handler(read(delivery.body, delivery.headers.get(CONTENT_TYPE)))
        return result

    return handle


def _events(read: Read, chain: Handle, site: SubscriberSite) -> Run:
    name, group = site.event, site.group

    def handle(items: Sequence[Item]) -> Awaitable[object]:
        item = items[0]
        delivery = item.delivery
        message = read(delivery.body, delivery.headers.get(CONTENT_TYPE))
        return chain(Event(name, group, item.attempt, message, delivery))

    return handle


def _batches(read: Read, chain: Handle, site: SubscriberSite, sessions: Mapping[str, Verify]) -> Run:
    async def handle(items: Sequence[Item]) -> object:
        events: list[Event[Any]] = []
        for item in items:
            delivery = item.delivery
            try:
                message = read(delivery.body, delivery.headers.get(CONTENT_TYPE))
                event = Event(site.event, site.group, item.attempt, message, delivery)
                await _check(event, sessions)
            except Exception as error:  # unreadable, or with a session that is refused
                item.failure = error
            else:
                events.append(event)
        return await chain(events) if events else None

    return handle


def _checked(innermost: Handle, sessions: Mapping[str, Verify]) -> Handle:
    async def call(event: Any) -> object:
        await _check(event, sessions)
        return await innermost(event)

    return call


async def _check(event: Event[Any], sessions: Mapping[str, Verify]) -> None:
    session = event.session if sessions else None
    verify = sessions.get(session.tag) if session is not None else None
    if verify is not None and session is not None:
        verdict = verify(session)
        if not (await verdict if isawaitable(verdict) else verdict):
            raise Reject(f"session {session.tag!r} was refused")
