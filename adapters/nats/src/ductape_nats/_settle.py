"""Acknowledgements, and how they are confirmed: many with one answer."""

from __future__ import annotations

from collections.abc import Sequence

from ductape.adapter import AdapterError, Fault

from ._link import Link
from ._wire import ack_command, status_of

__all__ = ["NAK", "PROGRESS", "confirmed", "nak"]

ACK, NAK, PROGRESS = b"+ACK", b"-NAK", b"+WPI"


def nak(delay: float) -> bytes:
    """Return the word that brings a message back, after `delay` seconds."""
    return NAK if delay <= 0 else b'-NAK {"delay": %d}' % (delay * 1e9)


async def confirmed(
    link: Link, where: str, acks: Sequence[bytes], others: Sequence[tuple[bytes, bytes]], bound: float
) -> None:
    """Write acknowledgements, then other words, and wait until the server has taken the last: it keeps their order.

    An acknowledgement is not answered where the consumer does not know that it delivered the message, as after a kill
    of the server. A sign of progress always is, and changes nothing about a message that is settled.

    Args:
        link: The connection, open.
        where: Names the consumer in errors.
        acks: Reply subjects of what is done.
        others: Reply subjects and words for them. One of the two is not empty.
        bound: Seconds to wait.

    Raises:
        AdapterError: ``TRANSIENT`` without an answer, ``LOST`` if the consumer is gone.
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
    if answer:
        raise AdapterError(Fault.LOST, f"{where}: the consumer is gone ({status_of(answer).code})")
