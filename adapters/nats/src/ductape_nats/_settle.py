"""Acknowledgements, and how they are confirmed: many with one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ductape.adapter import AdapterError, Delivery, Fault, Settlement, Verdict

from ._link import Link
from ._streams import Group, refused
from ._wire import Token, ack_command

__all__ = ["NAK", "PROGRESS", "Answers", "absence", "confirmed", "nak", "plan_of", "token_of"]

ACK, NAK, PROGRESS = b"+ACK", b"-NAK", b"+WPI"

Answers = list[AdapterError | None]


def nak(delay: float) -> bytes:
    """Return the word that brings a message back, after `delay` seconds."""
    return NAK if delay <= 0 else b'-NAK {"delay": %d}' % (delay * 1e9)


class Plan(NamedTuple):
    """What is written for some settlements."""

    answers: Answers
    acks: list[bytes]
    backs: list[tuple[bytes, bytes]]
    done: list[Delivery]
    """What that settles."""
    release: bool
    """Whether some of it is handed back, to come again at once."""


def plan_of(settlements: Sequence[Settlement], held: set[Delivery], now: float) -> Plan:
    """Sort settlements by what they need; what cannot come back from here any more is ``LOST``, and held no longer."""
    plan = Plan([None] * len(settlements), [], [], [], any(each.verdict is Verdict.RELEASE for each in settlements))
    for place, settlement in enumerate(settlements):
        delivery, verdict = settlement.delivery, settlement.verdict
        if delivery not in held:
            plan.answers[place] = AdapterError(Fault.LOST, "it was settled, or is with another member")
        elif verdict is Verdict.ACK:
            plan.acks.append(token_of(delivery).reply)
            plan.done.append(delivery)
        elif (delivery.leased_until or 0.0) <= now:
            held.discard(delivery)
            plan.answers[place] = AdapterError(Fault.LOST, "its lease is over: it is, or will be, with another member")
        else:
            plan.backs.append((token_of(delivery).reply, nak(settlement.delay if verdict is Verdict.RETRY else 0.0)))
            plan.done.append(delivery)
    return plan


def token_of(delivery: Delivery) -> Token:
    """Return what settling a delivery of ours needs."""
    token: Token = delivery.token  # type: ignore[assignment]  # ours: see delivery_of
    return token


async def confirmed(link: Link, acks: Sequence[bytes], others: Sequence[tuple[bytes, bytes]], bound: float) -> bool:
    """Write acknowledgements, then other words, and wait until the server has taken the last: it keeps their order.

    An acknowledgement is not answered where the consumer does not know that it delivered the message, as after a kill
    of the server. A sign of progress always is, and changes nothing about a message that is settled.

    Args:
        link: The connection, open.
        acks: Reply subjects of what is done.
        others: Reply subjects and words for them. One of the two is not empty.
        bound: Seconds to wait.

    Returns:
        Whether the consumer listens; see `absence`.

    Raises:
        AdapterError: ``TRANSIENT`` without an answer.
    """
    commands = [ack_command(reply, ACK) for reply in acks]
    commands += [ack_command(reply, word) for reply, word in others[:-1]]
    reply, word = others[-1] if others else (acks[-1], PROGRESS)
    batch, inbox = link.expect(1, reply.decode())
    commands.append(ack_command(reply, word, b"%b%d" % (inbox.encode(), batch.first)))
    await link.write(b"".join(commands))
    await link.wait(batch, bound)
    answer = batch.answers[0]
    if answer is None:
        raise batch.refused or AdapterError(Fault.TRANSIENT, link.why or f"no answer within {bound:g} s")
    return not answer


async def absence(link: Link, group: Group, bound: float = 5.0) -> AdapterError:
    """Tell why nobody listens: a consumer that is gone is ``LOST``; one without a leader comes back by itself."""
    where = f"{group.stream}/{group.name}"
    found = await link.api(f"CONSUMER.INFO.{group.stream}.{group.name}", bound=bound)
    if "error" in found:
        return refused(found, where)
    return AdapterError(Fault.TRANSIENT, f"{where}: the consumer does not listen, and is there; it may be moving")
