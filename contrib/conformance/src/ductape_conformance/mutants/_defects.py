"""Defects that take more than a line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ductape.adapter import AdapterError, Delivery, Epoch, Fault, Outgoing, Purpose, Settlement, Stored, Verdict
from ductape_conformance._tap import Call, Tap
from ductape_conformance.mutants._ways import on, replace


@on("remove")
async def kept(call: Call) -> Any:
    """Remove nothing."""


@on("receive")
async def twice(call: Call) -> Any:
    """Deliver everything twice, one after the other."""
    found = await call.proceed()
    return [copy for one in found for copy in (one, replace(one))]


@on("send")
async def reversed_(call: Call) -> Any:
    """Store the records of a call backwards."""
    return list(reversed(await call.proceed(list(reversed(call.args[0])))))


@on("receive")
async def shuffled(call: Call) -> Any:
    """Deliver again in any order."""
    found = await call.proceed()
    return found[::-1] if any((one.count or 1) > 1 for one in found) else found


@on("send")
async def last_wins(call: Call) -> Any:
    """Share a buffer between calls."""
    target: Any = call.target
    target.shared = call.args[0]
    await asyncio.sleep(0)
    return await call.proceed(target.shared)


@on("send")
async def whole_batch(call: Call) -> Any:
    """Refuse all records of a call because of one."""
    answers = await call.proceed()
    refused = next((one for one in answers if isinstance(one, AdapterError)), None)
    return [refused or one for one in answers]


@on("send")
async def one_place(call: Call) -> Any:
    """Say that all is stored at one position."""
    return [Stored("here") if isinstance(one, Stored) else one for one in await call.proceed()]


def early(tap: Tap) -> None:
    """Answer a send at once, store it a little later, and forget what is left at close."""

    async def send(call: Call) -> Any:
        async def later() -> None:
            await tap.clock.sleep(0.5)
            if not getattr(call.target, "gone", False):
                await call.proceed()

        call.target.later = asyncio.ensure_future(later())
        return [Stored() for _ in call.args[0]]

    async def close(call: Call) -> Any:
        call.target.gone = True
        return await call.proceed()

    tap.rules |= {"send": send, "close": close}


def greedy(tap: Tap) -> None:
    """Prefetch, and settle at close what was never handed over."""
    inside: dict[int, list[Delivery]] = {}

    async def receive(call: Call) -> Any:
        mine = inside.setdefault(id(call.target), [])
        if call.args[0] and not mine:
            mine += await call.proceed(100, call.args[1])
        taken, mine[:] = mine[: call.args[0]], mine[call.args[0] :]
        return taken

    async def close(call: Call) -> Any:
        if mine := inside.pop(id(call.target), []):
            await call.target.inner.settle([Settlement(one, Verdict.ACK) for one in mine])
        return await call.proceed()

    tap.rules |= {"receive": receive, "close": close}


def waits_for(*methods: str) -> Callable[[Tap], None]:
    """Let calls wait until the receive that is under way has ended."""

    def spoil(tap: Tap) -> None:
        running: dict[int, asyncio.Future[Any]] = {}

        async def receive(call: Call) -> Any:
            running[id(call.target)] = task = asyncio.ensure_future(_run(call))
            return await task

        async def wait(call: Call) -> Any:
            if (task := running.get(id(call.target))) is not None:
                await asyncio.wait({task})
            return await call.proceed()

        tap.rules["receive"] = receive
        for method in methods:
            tap.rules[method] = wait

    return spoil


async def _run(call: Call) -> Any:
    return await call.proceed()


@on("stop", "close")
async def nothing(call: Call) -> None:
    """Neither stop nor close anything."""


@on("stop")
async def deaf(call: Call) -> None:
    """Do not stop."""


@on("close")
async def once_only(call: Call) -> Any:
    """Crash when closed again."""
    if getattr(call.target, "was_closed", False):
        raise RuntimeError("already closed")
    call.target.was_closed = True
    return await call.proceed()


def no_way_back(tap: Tap) -> None:
    """Refuse to connect again after a connection broke."""

    async def connect(call: Call) -> Any:
        broken = [one for one in tap.connections if "dead" in repr(one.inner)]
        if broken:
            raise AdapterError(Fault.LOST, "the client is closed")
        return await call.proceed()

    tap.rules["connect"] = connect


@on("receive")
async def fragile(call: Call) -> Any:
    """Die of a body that is no UTF-8."""
    found = await call.proceed()
    for one in found:
        try:
            one.body.decode()
        except UnicodeDecodeError as error:
            raise AdapterError(Fault.LOST, "unreadable") from error
    return found


@on("settle")
async def resent_bare(call: Call) -> Any:
    """Carry out a retry by storing the body anew, without its headers."""
    sender = await call.target.tap.connections[-1].inner.sender(call.channel)
    answers: list[AdapterError | None] = []
    for one in call.args[0]:
        verdict = Verdict.ACK if one.verdict is Verdict.RETRY else one.verdict
        if one.verdict is Verdict.RETRY:
            await sender.send([Outgoing(one.delivery.body, {}, "x", one.delivery.key, one.delay)])
        answers += await call.proceed([Settlement(one.delivery, verdict, one.delay)])
    return answers


def by_number(tap: Tap) -> None:
    """Know deliveries by a number that begins anew with each receiver, and acknowledge what has it now."""
    numbers: dict[Delivery, int] = {}
    out: dict[tuple[int, int], Delivery] = {}

    async def receive(call: Call) -> Any:
        found = await call.proceed()
        for one in found:
            numbers[one] = sum(1 for target, _ in out if target == id(call.target))
            out[id(call.target), numbers[one]] = one
        return found

    async def settle(call: Call) -> Any:
        mine = [out.get((id(call.target), numbers[one.delivery])) for one in call.args[0]]
        return await call.proceed([
            Settlement(now or one.delivery, Verdict.ACK if now is not one.delivery else one.verdict, one.delay)
            for one, now in zip(call.args[0], mine, strict=True)
        ])  # fmt: skip

    tap.rules |= {"receive": receive, "settle": settle}


def counted_hand_backs(tap: Tap) -> None:
    """Count hand-backs as deliveries, and claim to be exact."""
    backs: dict[str, int] = {}

    async def settle(call: Call) -> Any:
        for one in call.args[0]:
            if one.verdict is Verdict.RELEASE:
                backs[one.delivery.position] = backs.get(one.delivery.position, 0) + 1
        return await call.proceed()

    async def receive(call: Call) -> Any:
        found = await call.proceed()
        for one in found:
            one.count += backs.get(one.position, 0)
        return found

    tap.rules |= {"settle": settle, "receive": receive}


@on("extend")
async def pretends(call: Call) -> Any:
    """Say that leases were extended, and extend none."""
    for one in call.args[0]:
        one.leased_until = (one.leased_until or 0.0) + 30.0
    return [None] * len(call.args[0])


@on("extend")
async def never_lost(call: Call) -> Any:
    """Say that all leases were extended."""
    await call.proceed()
    return [None] * len(call.args[0])


@on("settle")
async def first_answer(call: Call) -> Any:
    """Answer for the first delivery of a call only."""
    return (await call.proceed())[:1]


@on("settle")
async def moved_by_anybody(call: Call) -> Any:
    """Hand back on the word of somebody who lost the message: store it anew."""
    answers = list(await call.proceed())
    for number, (one, answer) in enumerate(zip(call.args[0], answers, strict=True)):
        if answer is not None and one.verdict is Verdict.RELEASE:
            sender = await call.target.tap.connections[-1].inner.sender(call.channel)
            await sender.send([Outgoing(one.delivery.body, one.delivery.headers, "x", one.delivery.key)])
            answers[number] = None
    return answers


@on("receive")
async def generous(call: Call) -> Any:
    """Return more than was asked for."""
    return await call.proceed(call.args[0] + 1, call.args[1])


@on("receive")
async def patient(call: Call) -> Any:
    """Poll for as long as the broker likes."""
    return await call.proceed(call.args[0], max(call.args[1], 30.0 if call.args[0] else 0.0))


@on("receive")
async def slow(call: Call) -> Any:
    """Look once, then sleep for the whole wait."""
    found = await call.proceed(call.args[0], 0.0)
    if not found and call.args[1]:
        await call.target.tap.clock.sleep(call.args[1])
        found = await call.proceed(call.args[0], 0.0)
    return found


@on("receive")
async def forgetful(call: Call) -> Any:
    """Give up a poll that takes too long, with what it brings."""
    if call.args[1] < 0.01 and call.args[0]:
        target: Any = call.target
        target.turn = getattr(target, "turn", 0) + 1
        found: Sequence[Delivery] = await call.proceed()
        return found if target.turn % 5 else []
    return await call.proceed()


@on("stop")
async def hasty(call: Call) -> Any:
    """Hand everything back when asked to stop, what runs included."""
    await call.proceed()
    await call.target.inner.settle([Settlement(one, Verdict.RELEASE) for one in call.target.out])


@on("receiver")
async def leaky(call: Call) -> Any:
    """Begin a task with each receiver, and never end it."""
    task = asyncio.ensure_future(call.target.tap.clock.sleep(1e6))
    made = await call.proceed()
    made.task = task
    return made


def obliging(tap: Tap) -> None:
    """Have every native object that is asked for."""

    async def connect(call: Call) -> Any:
        made = await call.proceed()
        made.unwrap = lambda kind: made
        return made

    tap.rules["connect"] = connect


@on("receiver")
async def lone(call: Call) -> Any:
    """Give every member a group of its own."""
    channel, intake = call.args
    call.target.tap.number = number = getattr(call.target.tap, "number", 0) + 1
    own = f"{intake.group}{number}x{id(call.target.tap):x}"
    await call.target.inner.declare(replace(channel, group=own))
    return await call.proceed(replace(channel, group=own), replace(intake, group=own))


@on("declare")
async def undeclared(call: Call) -> Any:
    """Declare no group: it comes into being when somebody reads."""
    if call.purpose is Purpose.EVENTS:
        return await call.proceed(replace(call.args[0], group=""))
    return await call.proceed()


@on("check")
async def rude(call: Call) -> Any:
    """Check by taking a message."""
    for receiver in call.target.tap.receivers:
        await receiver.inner.receive(1, 0.0)


def immortal(one: Delivery) -> None:
    """Belong to an epoch that nobody ends."""
    one.epoch = Epoch("for ever")


def mangled(text: str) -> str:
    """Return what is left of a header in Latin-1."""
    return text.encode("ascii", "replace").decode()
