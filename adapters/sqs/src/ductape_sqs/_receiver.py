"""Hands over the messages of a queue, and settles them."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence

from ductape.adapter import (
    AdapterError,
    Delivery,
    Epoch,
    Fault,
    Intake,
    Measurable,
    Receiver,
    Settlement,
    Site,
    Verdict,
)

from ._client import CALL, Client
from ._config import SqsConfig
from ._queues import Queue, Queues
from ._shapes import Changed, Changes, Received, Sent
from ._wire import BATCH, HALF_DAY, Handle, delivery_of, entry_fault

__all__ = ["QueueReceiver"]

Answers = list[AdapterError | None]
Change = tuple[int, Delivery, int | None]
"""Place, delivery, and the seconds after which it is visible again; None: it is deleted."""

_SETTLED = {Fault.AMBIGUOUS: Fault.TRANSIENT, Fault.MESSAGE: Fault.LOST}
"""A receipt may be settled again, and one that SQS refuses is over."""
POLLS = 8
"""Polls under way together while messages come in full batches."""
WIDTH = 8
"""Calls under way together for one settlement."""
CLOSING, HAND_BACK = 4.5, 0.4
"""Seconds for the polls that are under way when a receiver closes; seconds for what it gives back then."""


class QueueReceiver(Receiver, Measurable):
    """Polls for what the kernel asked for and has not got: polls outlive a call to `receive`, inside the window.

    Attributes:
        queue: The queue.
        epoch: Lives as long as the receiver: leases outlive connections.
    """

    def __init__(
        self,
        client: Client,
        queues: Queues,
        queue: Queue,
        intake: Intake,
        config: SqsConfig,
        site: Site,
        left: Callable[[QueueReceiver], None],
    ) -> None:
        """Begin; the first call to `receive` polls.

        Args:
            client: Makes the calls.
            queues: Tells how many messages wait.
            queue: The queue.
            intake: The window.
            config: Lease and length of a poll.
            site: The clock.
            left: Called when this receiver has closed.
        """
        self.queue = queue
        self.epoch = Epoch(queue.name, site.clock)
        self._client, self._queues, self._clock, self._left = client, queues, site.clock, left
        self._window, self._lease, self._poll_for = intake.window, config.lease, config.poll
        self._bound = min(CALL, max(1.0, config.lease / 3) * 0.8)
        self._request = {
            "QueueUrl": queue.url,
            "WaitTimeSeconds": config.poll,
            "VisibilityTimeout": config.lease,
            "MessageAttributeNames": ["All"],
            "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
        }
        self._out: set[Delivery] = set()
        self._buffer: deque[Delivery] = deque()
        self._polls: set[asyncio.Task[None]] = set()
        self._asked = 0
        self._hot = False
        self._error: AdapterError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._stopped = False
        self._closing: asyncio.Task[None] | None = None

    # -- in

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return what is there, or what comes first."""
        if self._client.closed:
            raise AdapterError(Fault.LOST, "the connection is closed")
        if limit <= 0:
            return []
        self._fill(limit)
        if not self._buffer and self._error is None and not self._stopped and wait > 0:
            self._waiter = asyncio.get_running_loop().create_future()
            timer = self._clock.call_later(wait, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if self._error is not None and not self._buffer and not self._stopped:
            error, self._error = self._error, None
            raise error
        taken = self._take(limit)
        if taken:
            self._fill(limit - len(taken), least=min(BATCH, self._window // 2))  # flies while these are handled
        return taken

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fill(self, limit: int, least: int = 1) -> None:
        """Poll for what there is room for; a call costs the same for one message as for ten."""
        while not self._stopped and self._error is None:
            inside = len(self._buffer) + self._asked
            room = min(limit - inside, self._window - len(self._out) - inside, BATCH)
            if room < least or room < 1:
                return
            if self._polls and (room < BATCH or not self._hot or len(self._polls) >= POLLS):
                return
            self._asked += room
            self._polls.add(asyncio.get_running_loop().create_task(self._poll(room)))

    async def _poll(self, room: int) -> None:
        """Ask once. What comes is ours from then on, so nobody ever cancels this."""
        since = self._clock.now()
        try:
            request = {**self._request, "MaxNumberOfMessages": room}
            found = (await self._client.call("ReceiveMessage", request, Received, self._poll_for + CALL)).messages
            self._hot = len(found) * 2 >= room
            got = [delivery_of(each, self.queue.name, self.epoch, since, self._lease) for each in found]
            if self._stopped:  # too late to be handed over: others need not wait for it
                await self._settle([Settlement(delivery, Verdict.RELEASE) for delivery in got])
            else:
                self._buffer += got
        except AdapterError as error:
            self._error, self._hot = error, False
        except Exception as error:
            self._error = AdapterError(Fault.LOST, f"an answer that cannot be read ({type(error).__name__})")
        finally:
            self._asked -= room
            self._polls.discard(asyncio.current_task())
            if self._buffer or self._error is not None or not self._polls:
                self._wake()

    def _take(self, limit: int) -> list[Delivery]:
        buffer, now = self._buffer, self._clock.now()
        taken: list[Delivery] = []
        while buffer and len(taken) < limit:
            delivery = buffer.popleft()
            if (delivery.leased_until or 0.0) > now:  # else nobody asked for it in time, and it is with another
                taken.append(delivery)
        self._out.update(taken)
        return taken

    # -- out

    async def settle(self, settlements: Sequence[Settlement]) -> Answers:
        """Settle in batches of ten that are under way together."""
        if self._closing is not None:
            raise AdapterError(Fault.LOST, "the receiver is closed: what it held goes to another when its lease ends")
        return await self._settle(settlements)

    async def _settle(self, settlements: Sequence[Settlement]) -> Answers:
        now = self._clock.now()
        answers: Answers = [None] * len(settlements)
        deletions: list[Change] = []
        changes: list[Change] = []
        for place, settlement in enumerate(settlements):
            delivery = settlement.delivery
            if settlement.verdict is Verdict.ACK:
                deletions.append((place, delivery, None))
            elif (delivery.leased_until or 0.0) <= now:
                answers[place] = _over()
            else:
                wanted = math.ceil(settlement.delay) if settlement.verdict is Verdict.RETRY else 0
                changes.append((place, delivery, min(wanted, self._left_of(delivery, now))))
        end = now + self._bound
        if deletions and changes:
            await asyncio.gather(
                self._change("DeleteMessageBatch", deletions, answers, end),
                self._change("ChangeMessageVisibilityBatch", changes, answers, end),
            )
        elif deletions:
            await self._change("DeleteMessageBatch", deletions, answers, end)
        else:
            await self._change("ChangeMessageVisibilityBatch", changes, answers, end)
        self._release([each.delivery for each in settlements], answers)
        return answers

    def _release(self, deliveries: Sequence[Delivery], answers: Answers, *, settled: bool = True) -> None:
        """Free the places of what is settled, or is not ours any more."""
        for delivery, answer in zip(deliveries, answers, strict=True):
            if settled if answer is None else answer.fault is Fault.LOST:
                self._out.discard(delivery)
        if not self._polls:
            self._wake()  # there may be room for a poll now

    async def extend(self, deliveries: Sequence[Delivery]) -> Answers:
        """Renew leases, for as long as SQS allows in all."""
        now = self._clock.now()
        answers: Answers = [None] * len(deliveries)
        changes: list[Change] = []
        for place, delivery in enumerate(deliveries):
            left = self._left_of(delivery, now)
            if left <= 0 or (delivery.leased_until or 0.0) <= now:
                answers[place] = _over()
            else:
                changes.append((place, delivery, min(self._lease, left)))
        await self._change("ChangeMessageVisibilityBatch", changes, answers, now + self._bound)
        for place, delivery, seconds in changes:
            if answers[place] is None:
                delivery.leased_until = now + (seconds or 0)
        self._release(deliveries, answers, settled=False)
        return answers

    def _left_of(self, delivery: Delivery, now: float) -> int:
        """Return the seconds that SQS will still leave a message with us, those included for which it waits."""
        handle: Handle = delivery.token  # type: ignore[assignment]  # ours: see delivery_of
        return max(0, int(handle.since + HALF_DAY - now) - 1)

    async def _change(self, operation: str, changes: Sequence[Change], answers: Answers, end: float) -> None:
        """Make one call for ten, some at a time; all of them end before `end`."""
        tens = deque(changes[start : start + BATCH] for start in range(0, len(changes), BATCH))
        late = AdapterError(Fault.TRANSIENT, f"{operation}: not sent in time")

        async def run() -> None:
            while tens:
                ten = tens.popleft()
                left = end - self._clock.now()
                if left > self._bound / 4:
                    await self._ten(operation, ten, answers, left)
                else:
                    for place, _, _ in ten:
                        answers[place] = late

        if len(tens) == 1:
            await run()
        elif tens:
            await asyncio.gather(*(run() for _ in range(min(WIDTH, len(tens)))))

    async def _ten(self, operation: str, ten: Sequence[Change], answers: Answers, seconds: float) -> None:
        entries = [
            Changed(str(number), delivery.token.receipt, seconds)  # type: ignore[attr-defined]  # ours
            for number, (_, delivery, seconds) in enumerate(ten)
        ]
        try:
            done = await self._client.call(operation, Changes(self.queue.url, entries), Sent, seconds)
        except AdapterError as error:
            for place, _, _ in ten:
                answers[place] = error
            return
        said: dict[str, AdapterError | None] = dict.fromkeys(good.id for good in done.successful)
        for bad in done.failed:
            refused = entry_fault(operation, bad)
            said[bad.id] = AdapterError(_SETTLED.get(refused.fault, refused.fault), refused.text)
        unsaid = AdapterError(Fault.TRANSIENT, f"{operation}: no answer for this entry")
        for number, (place, _, _) in enumerate(ten):
            answers[place] = said.get(str(number), unsaid)

    async def lag(self) -> int | None:
        """Return about how many messages wait."""
        return await self._queues.waiting(self.queue)

    # -- the end

    async def stop(self) -> None:
        """Poll no more. What is here is handed over; what the polls under way still bring goes back at once."""
        self._stopped = True
        self._wake()

    async def close(self) -> None:
        """Wait for the polls under way, and hand back what they brought."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self.stop()
        if self._polls:
            _, late = await asyncio.wait(set(self._polls), timeout=CLOSING)
            for poll in late:  # the link is dead: what SQS gave this poll comes again when its lease ends
                poll.cancel()
        unread = [Settlement(delivery, Verdict.RELEASE) for delivery in self._buffer]
        self._buffer.clear()
        try:
            async with asyncio.timeout(HAND_BACK):
                await self._settle(unread)
        except TimeoutError:
            pass  # the same
        self.epoch.end()
        self._left(self)

    def __repr__(self) -> str:
        state = "closed" if self._closing is not None else "stopped" if self._stopped else "open"
        return f"<QueueReceiver {self.queue.name} {state} out={len(self._out)} polls={len(self._polls)}>"


def _over() -> AdapterError:
    return AdapterError(Fault.LOST, "the lease of this message is over: it is, or will be, with another consumer")
