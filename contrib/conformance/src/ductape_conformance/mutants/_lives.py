"""Adapters with one defect each in how members come and go, in how connections fail, and in what is claimed of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from ductape.adapter import AdapterError, Fault, Purpose, Settlement, Stored, Verdict
from ductape_conformance._tap import Call, Tap
from ductape_conformance.mutants import _defects as d
from ductape_conformance.mutants._mutant import Mutant
from ductape_conformance.mutants._ways import boundless, channels, deliveries, errors, on, replace, verdicts
from ductape_memory import QUEUE, MemoryBroker

__all__ = ["LIVES"]

_PARKS = replace(QUEUE, retry_delay=0.0)


def both(*defects: Callable[[Tap], None]) -> Callable[[Tap], None]:
    """Return several defects that are only one together."""

    def spoil(tap: Tap) -> None:
        for defect in defects:
            defect(tap)

    return spoil


async def _settle(call: Call, verdict: Verdict) -> None:
    """Settle all that is out with a receiver, behind everybody's back."""
    await call.target.inner.settle([Settlement(one, verdict) for one in list(call.target.out)])


def hands_over_acked(tap: Tap) -> None:
    """Acknowledge when handing over."""

    async def receive(call: Call) -> Any:
        found = await call.proceed()
        await call.target.inner.settle([Settlement(one, Verdict.ACK) for one in found])
        return found

    async def settle(call: Call) -> Any:
        return [None] * len(call.args[0])

    tap.rules |= {"receive": receive, "settle": settle}


@on("close")
async def closes_acked(call: Call) -> Any:
    """Acknowledge at close what was not settled."""
    if hasattr(call.target, "out") and not call.target.inner._closed:
        await _settle(call, Verdict.ACK)
    return await call.proceed()


def stops_deaf(tap: Tap) -> None:
    """Lose what arrives while it stops: it is taken, acknowledged, and handed to nobody."""

    async def receive(call: Call) -> Any:
        found = await call.proceed()
        if getattr(call.target, "stopped", False) and found:
            await call.target.inner.settle([Settlement(one, Verdict.ACK) for one in found])
            return []
        return found

    async def stop(call: Call) -> Any:
        taken = await call.target.inner.receive(100, 0.0)
        await call.target.inner.settle([Settlement(one, Verdict.ACK) for one in taken])
        return await call.proceed()

    tap.rules |= {"receive": receive, "stop": stop}


@on("settle")
async def says_yes_when_closed(call: Call) -> Any:
    """Answer well after it closed."""
    if call.target.closed or call.target.inner._closed:
        return [None] * len(call.args[0])
    return await call.proceed()


@on("settle")
async def says_yes_when_cut(call: Call) -> Any:
    """Answer well what failed."""
    try:
        return await call.proceed()
    except AdapterError:
        return [None] * len(call.args[0])


def settles_the_next(tap: Tap) -> None:
    """Settle another message where one is settled again."""
    done: set[Any] = set()

    async def settle(call: Call) -> Any:
        again = [one for one in call.args[0] if one.delivery in done and one.verdict is Verdict.ACK]
        done.update(one.delivery for one in call.args[0])
        for _ in again:
            await call.target.inner.settle([Settlement(one, Verdict.ACK) for one in call.target.out if one not in done])
        return await call.proceed()

    tap.rules["settle"] = settle


@on("settle")
async def first_retry_only(call: Call) -> Any:
    """Carry out one retry of a call, and acknowledge the others."""
    retries = [one for one in call.args[0] if one.verdict is Verdict.RETRY]
    return await call.proceed([
        replace(one, verdict=Verdict.ACK) if one in retries[1:] else one for one in call.args[0]
    ])  # fmt: skip


@on("send", "receive", "check")
async def cut_off(call: Call) -> Any:
    """Wait for a connection that is gone."""
    try:
        return await call.proceed()
    except AdapterError:
        await call.target.tap.clock.sleep(100.0)
        return []


@on("receive")
async def unaware(call: Call) -> Any:
    """Take a group that is gone for one where nothing waits."""
    try:
        return await call.proceed()
    except AdapterError:
        await call.target.tap.clock.sleep(max(call.args[1], 0.01))
        return []


def declares_once(tap: Tap) -> None:
    """Declare each group once, whatever became of it."""
    known: set[tuple[Any, str]] = set()

    async def declare(call: Call) -> Any:
        (channel,) = call.args
        if (channel.identity, channel.group) in known:
            return None
        known.add((channel.identity, channel.group))
        return await call.proceed()

    tap.rules["declare"] = declare


@on("declare")
async def begins_anew(call: Call) -> Any:
    """Make the group anew each time it is declared."""
    (channel,) = call.args
    await call.proceed()
    if channel.group == "billing" and channel.purpose is Purpose.EVENTS:
        call.target.inner.unwrap(MemoryBroker).faults.forget(channel.name, channel.group)
        await call.proceed()


def one_listener(tap: Tap) -> None:
    """Give to the first receiver alone."""

    async def receive(call: Call) -> Any:
        if call.target is tap.receivers[0]:
            return await call.proceed()
        await tap.clock.sleep(call.args[1])
        return []

    tap.rules["receive"] = receive


@on("receive")
async def eats_letters(call: Call) -> Any:
    """Take dead letters away by looking at them."""
    found = await call.proceed()
    if call.purpose is Purpose.DEAD:
        await call.target.inner.settle([Settlement(one, Verdict.ACK) for one in found])
    return found


@on("send")
async def impatient(call: Call) -> Any:
    """Give up what takes longer than usual."""
    began = call.target.tap.clock.now()
    answers = await call.proceed()
    if call.target.tap.clock.now() - began > 0.03:
        raise AdapterError(Fault.AMBIGUOUS, "no answer in time")
    return answers


@on("send")
async def hopeful(call: Call) -> Any:
    """Take what was not answered for stored."""
    return [Stored() if isinstance(one, AdapterError) and one.fault is Fault.AMBIGUOUS else one
            for one in await call.proceed()]  # fmt: skip


def gives_up_for_ever(tap: Tap) -> None:
    """Receive nothing any more after a silence."""
    silent = False

    async def send(call: Call) -> Any:
        nonlocal silent
        began = tap.clock.now()
        answers = await call.proceed()
        silent = silent or tap.clock.now() - began > 1.0
        return answers

    async def receive(call: Call) -> Any:
        found = [] if silent else await call.proceed()
        if not silent:
            return found
        await tap.clock.sleep(call.args[1])
        return []

    tap.rules |= {"send": send, "receive": receive}


@on("sender")
async def a_lane_each(call: Call) -> Any:
    """Say that every record has a lane of its own."""
    made = await call.proceed()
    made.lane = lambda record: hash(record.id) % 100
    return made


@on("receiver")
async def drops_unsaid(call: Call) -> Any:
    """Do not count what is dropped."""
    made = await call.proceed()
    made.dropped = lambda: 0
    return made


@on("send")
async def quotes(call: Call) -> Any:
    """Say what could not be sent."""
    try:
        return await call.proceed()
    except AdapterError as error:
        raise error from ValueError(f"cannot send {call.args[0][0].body!r}")


def weary(tap: Tap) -> None:
    """Put away what was handed back twenty times."""
    times: Counter[str] = Counter()

    async def settle(call: Call) -> Any:
        times.update(one.delivery.headers["ductape-id"] for one in call.args[0] if one.verdict is Verdict.RELEASE)
        return await call.proceed([
            replace(one, verdict=Verdict.ACK) if times[one.delivery.headers["ductape-id"]] > 20 else one
            for one in call.args[0]
        ])  # fmt: skip

    tap.rules["settle"] = settle


@on("receive")
async def one_at_a_time(call: Call) -> Any:
    """Serve nobody while another receiver of the process has something out."""
    if any(one.out for one in call.target.tap.events if one is not call.target):
        await call.target.tap.clock.sleep(max(call.args[1], 0.01))
        return []
    return await call.proceed()


def _unnamed(one: Any) -> None:
    if "ductape-id" not in one.headers:
        one.error = "a message without an id"


LIVES: tuple[Mutant, ...] = (
    Mutant(
        "acks-when-it-hands-over",
        (
            "delivery.not-settled-before-processed",
            "delivery.a-dead-consumer-loses-nothing",
            "delivery.members-come-and-go",
            "settle.unsettled-returns-after-close",
            "settle.unsettled-returns-after-a-crash",
        ),
        hands_over_acked,
    ),
    Mutant(
        "acks-at-close-what-is-out",
        ("settle.unsettled-returns-after-close", "groups.members-come-and-go", "close.at-the-same-time"),
        closes_acked,
    ),
    Mutant("swallows-what-comes-while-it-stops", ("stop.nothing-is-swallowed",), stops_deaf),
    Mutant("settles-well-after-it-closed", ("settle.after-close-is-refused",), says_yes_when_closed),
    Mutant("settles-well-after-a-cut", ("faults.a-cut-loses-nothing",), says_yes_when_cut, imitate="stream"),
    Mutant("settling-again-settles-the-next", ("settle.twice-is-harmless",), settles_the_next),
    Mutant("one-retry-for-many", ("batch.fails-as-one",), first_retry_only),
    Mutant(
        "retries-are-kept-in-the-process",
        ("settle.retry-survives-its-process",),
        verdicts(lambda one: one if one.verdict is not Verdict.RETRY else None),
    ),
    Mutant("cuts-go-unnoticed", ("faults.a-cut-is-noticed",), cut_off),
    Mutant(
        "declares-a-group-once",
        ("groups.forgotten-is-declared-again",),
        declares_once,
    ),
    Mutant("a-lost-group-goes-unnoticed", ("outages.a-group-that-the-server-lost",), unaware),
    Mutant("declaring-begins-anew", ("contract.declaring-again-changes-nothing",), begins_anew),
    Mutant(
        "latest-is-earliest",
        ("groups.latest-begins-with-now",),
        channels(lambda one: replace(one, start="earliest"), lambda one: replace(one, start="earliest")),
        imitate="stream",
    ),
    Mutant("one-listener-gets-all", ("groups.without-them-everybody-gets-all",), one_listener, imitate="lossy"),
    Mutant("hoards-beyond-its-window", ("window.leaves-the-rest-to-others",), both(boundless, d.greedy)),
    Mutant("errors-quote-the-message", ("send.errors-show-nothing-of-the-message",), quotes),
    Mutant("twenty-hand-backs-are-enough", ("settle.many-hand-backs-lose-nothing",), weary),
    Mutant("one-receiver-at-a-time", ("bounds.a-slow-subscription-holds-up-no-other",), one_at_a_time),
    Mutant("looking-eats-letters", ("dead.looking-takes-nothing",), eats_letters),
    Mutant(
        "copies-go-to-everybody",
        ("retry.copies-keep-group-and-id", "dead.replay-reaches-one-group"),
        channels(lambda one: replace(one, purpose=Purpose.EVENTS) if one.purpose is Purpose.RETRY else one),
        caps=_PARKS,
    ),
    Mutant("foreign-messages-are-unreadable", ("wire.foreign-messages-are-handled",), deliveries(_unnamed)),
    Mutant(
        "slowness-is-a-failure",
        ("faults.a-slow-link-is-only-slow", "outages.a-slow-link-loses-nothing"),
        impatient,
    ),
    Mutant(
        "no-answer-is-a-good-answer",
        ("faults.half-open-calls-end",),
        hopeful,
    ),
    Mutant("a-silence-is-the-end", ("outages.a-silence-ends-well",), gives_up_for_ever),
    Mutant(
        "wrong-credentials-are-transient",
        ("faults.refused-credentials-are-a-config-fault", "outages.refused-credentials-are-told"),
        errors(Fault.CONFIG, Fault.TRANSIENT, "connect"),
    ),
    Mutant("every-record-has-a-lane", ("kernel.keyless-records-fill-calls",), a_lane_each, imitate="log"),
    Mutant("drops-are-not-counted", ("bounds.what-is-dropped-is-counted",), drops_unsaid, imitate="lossy"),
)
