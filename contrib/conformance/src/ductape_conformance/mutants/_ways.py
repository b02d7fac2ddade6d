"""Ways to break an adapter: rules on a tap that make something go wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ductape.adapter import (
    AdapterError,
    Delivery,
    Fault,
    Outgoing,
    Purpose,
    Settlement,
)
from ductape_conformance._tap import Call, Rule, Tap
from ductape_memory import QUEUE

replace = msgspec.structs.replace
SMALL = replace(QUEUE, max_body=2000, max_message=2600)

# -- ways to break something


def on(*methods: str) -> Callable[[Rule], Callable[[Tap], None]]:
    """Return a decorator that makes a defect of a rule: it holds for these methods."""

    def made(rule: Rule) -> Callable[[Tap], None]:
        def spoil(tap: Tap) -> None:
            for method in methods:
                tap.rules[method] = rule

        return spoil

    return made


def verdicts(change: Callable[[Settlement], Settlement | None]) -> Callable[[Tap], None]:
    """Return a defect of settling: each settlement is changed, or answered well and dropped."""

    @on("settle")
    async def rule(call: Call) -> Any:
        kept = [(number, changed) for number, one in enumerate(call.args[0]) if (changed := change(one)) is not None]
        answers: list[AdapterError | None] = [None] * len(call.args[0])
        if kept:
            for (number, _), answer in zip(kept, await call.proceed([one for _, one in kept]), strict=True):
                answers[number] = answer
        return answers

    return rule


def records(change: Callable[[Outgoing], Outgoing]) -> Callable[[Tap], None]:
    """Return a defect of sending: each record is changed."""

    @on("send")
    async def rule(call: Call) -> Any:
        return await call.proceed([change(one) for one in call.args[0]])

    return rule


def deliveries(change: Callable[[Delivery], object]) -> Callable[[Tap], None]:
    """Return a defect of receiving: something is done to each delivery."""

    @on("receive")
    async def rule(call: Call) -> Any:
        found = await call.proceed()
        for one in found:
            change(one)
        return found

    return rule


def channels(change: Callable[[Any], Any], intake: Callable[[Any], Any] = lambda one: one) -> Callable[[Tap], None]:
    """Return a defect of names: each channel, and intake, is changed."""

    @on("declare", "sender", "receiver")
    async def rule(call: Call) -> Any:
        return await call.proceed(change(call.args[0]), *map(intake, call.args[1:]))

    return rule


def claiming(**fields: Any) -> Callable[[Tap], None]:
    """Return an adapter that claims what it does not do."""

    def spoil(tap: Tap) -> None:
        tap.claims = lambda channel, can: replace(can, **fields) if channel.purpose is Purpose.EVENTS else can
        tap.capabilities = replace(tap.capabilities, **fields)

    return spoil


def errors(before: Fault, after: Fault, *methods: str) -> Callable[[Tap], None]:
    """Return a defect of the error table: one fault is taken for another."""

    @on(*methods)
    async def rule(call: Call) -> Any:
        try:
            return await call.proceed()
        except AdapterError as error:
            raise AdapterError(after if error.fault is before else error.fault, str(error)) from error

    return rule


boundless = channels(lambda one: one, lambda one: replace(one, window=1000))
"""Let anybody have as much as he likes out."""


def setting(name: str, value: Any) -> Callable[[Delivery], None]:
    """Return a change of one field of a delivery."""
    return lambda one: setattr(one, name, value)
