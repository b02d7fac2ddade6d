"""Stores records: in a stream, or with whoever listens to a core subject now."""

from __future__ import annotations

from collections.abc import Sequence

from ductape.adapter import AdapterError, Fault, Limits, Outgoing, Sender, Stored

from ._link import Link
from ._wire import Refusal, publish_command, stored_of

__all__ = ["StreamSender", "SubjectSender"]

Answer = Stored | AdapterError


class _Sender(Sender):
    """Writes a call's records at once."""

    limits = Limits(records=500, bytes=1_000_000, calls=2, seconds=10.0)

    def __init__(self, link: Link, subject: str, max_size: int | None = None) -> None:
        self._link, self._subject, self._max_size = link, subject, max_size
        self._start = f"HPUB {subject} ".encode()
        self._ordered = False

    def _written(
        self, records: Sequence[Outgoing], replies: Sequence[str], *, stored: bool
    ) -> list[bytes | AdapterError]:
        """Return each record's command, or why it cannot be written: then nothing of its key behind it is."""
        # The server closes the connection for good on a message that is too large, headers included.
        most = self._link.client.max_payload
        most = min(most, self._max_size) if self._max_size is not None else most
        written: list[bytes | AdapterError] = []
        failed: set[str] = set()
        for record, reply in zip(records, replies, strict=True):
            if self._ordered and record.key in failed:
                written.append(AdapterError(Fault.TRANSIENT, "an earlier record of this key failed"))
                continue
            try:
                command = publish_command(self._start, reply, record, stored=stored)
                if len(command) > most and (size := len(command) - command.index(b"\r\n") - 4) > most:
                    raise Refusal(f"{size} bytes with headers, and the server takes {most}")
            except (ValueError, TypeError) as error:
                # Only our own texts are known to quote no value.
                text = str(error) if isinstance(error, Refusal) else type(error).__name__
                written.append(AdapterError(Fault.MESSAGE, f"cannot be written: {text}"))
                if record.key is not None:
                    failed.add(record.key)
            else:
                written.append(command)
        return written

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._subject}>"


class StreamSender(_Sender):
    """Publishes to a stream: what is answered is stored, once for each id as long as the stream remembers it."""

    def __init__(self, link: Link, subject: str, max_size: int | None, *, ordered: bool) -> None:
        """Prepare.

        Args:
            link: The connection.
            subject: The channel's.
            max_size: Bytes of a message, where the stream limits them.
            ordered: After a record of a key failed no later one of it is written.
        """
        super().__init__(link, subject, max_size)
        self._ordered = ordered

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Answer]:
        """Store the records with one write. What was not answered when the connection broke is ``AMBIGUOUS``."""
        link, subject = self._link, self._subject
        bound = await link.open()
        batch, inbox = link.expect(len(records), subject)
        replies = [f"{inbox}{token} " for token in range(batch.first, batch.first + len(records))]
        written = self._written(records, replies, stored=True)
        commands = [command for command in written if isinstance(command, bytes)]
        batch.left = len(commands)
        await link.write(b"".join(commands))
        await link.wait(batch, bound)
        answers: list[Answer] = []
        for command, answer in zip(written, batch.answers, strict=True):
            if isinstance(command, AdapterError):
                answers.append(command)
            elif answer:
                stored = stored_of(answer, subject)
                answers.append(stored if isinstance(stored, AdapterError) else Stored(*stored))
            else:
                missing = AdapterError(Fault.AMBIGUOUS, f"{subject}: {link.why or f'no answer within {bound:g} s'}")
                answers.append(batch.refused or missing)
        return answers


class SubjectSender(_Sender):
    """Publishes to a core subject: a confirmed message reached the server, and nobody else for certain."""

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Answer]:
        """Hand the records to the server with one write, and see that it read them."""
        bound = await self._link.open()
        written = self._written(records, [""] * len(records), stored=False)
        commands = [command for command in written if isinstance(command, bytes)]
        lost: AdapterError | None = None
        if commands:
            await self._link.write(b"".join(commands))
            try:
                await self._link.ping(bound)
            except AdapterError as error:
                lost = AdapterError(Fault.AMBIGUOUS, f"{self._subject}: {error.text}")
        sent = lost or Stored(self._subject)
        return [command if isinstance(command, AdapterError) else sent for command in written]
