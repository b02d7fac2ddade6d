"""Hands over the messages of one subscription, and settles them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from ductape.adapter import AdapterError, Delivery, Epoch, Fault, Receiver, Settlement, Site, Verdict

from ._api import CALL, AckRequest, Api, DeadlineRequest, Polls, PullRequest, code_of, details_of
from ._config import GooglePubSubConfig
from ._topology import Facts
from ._wire import Leased, delivery_of, seconds_of

__all__ = ["PullReceiver"]

Answers = list[AdapterError | None]

MESSAGES: Final = 1000
"""Messages of one poll."""
IDS: Final = 1000
"""Acknowledgement ids of one call: a request holds 512 KiB."""
SLACK: Final = 1.0
"""Seconds that a poll's deadline is later than the time for which it is held: the emulator answers so much earlier."""
PACE: Final = 0.25
"""Seconds from an empty answer that came at once to the next poll."""
HAND_BACK: Final = 0.5
"""Seconds for what `close` gives back."""


class PullReceiver(Receiver):
    """Polls: one at a time, held open between calls to `receive`, and never cancelled.

    A poll that is given up still takes the next message, which then waits for its lease to run out. Streams were tried:
    a member that leaves frees the keys that still run there, and messages are sent to streams that are gone.
    """

    def __init__(
        self, api: Api, polls: Polls, name: str, facts: Facts, window: int, *, config: GooglePubSubConfig, site: Site
    ) -> None:
        """Begin an epoch; acknowledgement ids outlive connections, so it lives as long as this receiver.

        Args:
            api: The methods, for settling.
            polls: The channels for polls, of which it takes a place on one.
            name: The whole name of the subscription.
            facts: What the subscription is.
            window: How many may be unsettled, those in the buffer included.
            config: The user's.
            site: Where this adapter finds itself.
        """
        self.epoch = Epoch(name, site.clock)
        self._api, self._polls, self._name, self._facts, self._window = api, polls, name, facts, window
        self._poller = polls.join()
        self._clock, self._log = site.clock, site.log
        self._lease = int(facts.lease)
        self._hold = min(config.poll, facts.lease / 3)  # a lease counts from a poll's begin: see `_pull`
        self._bound = min(CALL, max(1.0, facts.lease / 3)) * 0.95
        self._topic = name.rpartition("/")[2]
        self._held: dict[Delivery, None] = {}
        self._buffer: deque[Delivery] = deque()
        self._poll: asyncio.Task[None] | None = None
        self._stopped = self._closed = False

    # -- receiving

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return what is there, or what the open poll brings first."""
        if self._closed:
            raise AdapterError(Fault.LOST, "the receiver is closed")
        self._api.check_open()
        end = self._clock.now() + wait
        while limit > 0 and not self._buffer:
            poll = self._poll or self._begin(limit)
            if poll is None or not await self._until(poll, end - self._clock.now()):
                break
            if self._poll is poll:
                self._poll = None
                try:
                    poll.result()
                finally:
                    del poll  # a frame that keeps an error is kept by it
        return self._take(limit)

    def _begin(self, limit: int) -> asyncio.Task[None] | None:
        room = min(limit, self._window - len(self._held), MESSAGES)
        if room > 0 and not self._stopped:
            self._poll = asyncio.get_running_loop().create_task(self._pull(room))
        return self._poll

    async def _until(self, poll: asyncio.Task[None], seconds: float) -> bool:
        """Wait for a poll, and leave it alone; tell whether it is done."""
        if seconds > 0 and not poll.done():
            bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            timer = self._clock.call_later(seconds, bell.cancel)
            try:
                await asyncio.wait({poll, bell}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
        return poll.done()

    async def _pull(self, room: int) -> None:
        began = self._clock.now()
        request = PullRequest(subscription=self._name, max_messages=room)
        hold = self._hold
        try:
            reply = await self._poller.pull(request, timeout=hold + SLACK, where=self._name)
        except AdapterError as error:
            if code_of(error) == "DEADLINE_EXCEEDED" and self._clock.now() - began >= hold:
                return  # nothing came
            raise
        if reply.received_messages:
            # The lease runs from some moment of the poll: not later than this.
            shared = Leased(self.epoch, began + self._lease, self._topic)
            found = [delivery_of(received, shared) for received in reply.received_messages]
            self._held.update(dict.fromkeys(found))
            self._buffer.extend(found)
        elif (early := min(PACE, hold) - (self._clock.now() - began)) > 0:
            await self._clock.sleep(early)  # the service may say at once that there is nothing, though there is

    def _take(self, limit: int) -> list[Delivery]:
        buffer, now = self._buffer, self._clock.now()
        taken: list[Delivery] = []
        while buffer and len(taken) < limit:
            delivery = buffer.popleft()
            if (delivery.leased_until or 0.0) > now:
                taken.append(delivery)
            else:  # nobody asked for it in time: it is, or will be, with another member
                self._held.pop(delivery, None)
        return taken

    # -- settling

    async def settle(self, settlements: Sequence[Settlement]) -> Answers:
        """Settle with one call for what is done, and one for every distinct delay of what comes back."""
        if self._closed:
            raise AdapterError(Fault.LOST, "the receiver is closed: what it held is, or will be, with another member")
        return await self._settle(settlements)

    async def _settle(self, settlements: Sequence[Settlement]) -> Answers:
        calls: dict[int | None, list[str]] = {}
        done: list[str] = []
        answers: Answers = [None] * len(settlements)
        ordered, epoch, held, now = self._facts.ordered, self.epoch, self._held, self._clock.now()
        for place, settlement in enumerate(settlements):
            delivery = settlement.delivery
            token: str = delivery.token  # type: ignore[assignment]  # ours: see delivery_of
            if delivery.epoch is not epoch:
                answers[place] = AdapterError(Fault.LOST, "the message is not with this receiver")
            elif settlement.verdict is Verdict.ACK:
                done.append(token)  # one that comes late is often taken yet
            elif (delivery.leased_until or 0.0) <= now:
                answers[place] = _over()
            else:
                calls.setdefault(seconds_of(settlement, ordered=ordered), []).append(token)
        if done:
            calls[None] = done
        failed = await self._tell(calls)
        for place, settlement in enumerate(settlements):
            delivery = settlement.delivery
            if failed and answers[place] is None:
                answers[place] = failed.get(delivery.token)  # type: ignore[call-overload]  # as above
            answer = answers[place]
            if answer is None or answer.fault is Fault.LOST:
                held.pop(delivery, None)
        return answers

    async def extend(self, deliveries: Sequence[Delivery]) -> Answers:
        """Renew leases. One that ran out is lost: only an exactly-once subscription would say so."""
        now = self._clock.now()
        ids = [each.token for each in deliveries if (each.leased_until or 0.0) > now]
        failed = await self._tell({self._lease: ids})  # type: ignore[dict-item]  # ours: see delivery_of
        answers: Answers = []
        for each in deliveries:
            if (each.leased_until or 0.0) <= now:
                answer: AdapterError | None = _over()
            else:
                answer = failed.get(each.token)  # type: ignore[call-overload]  # as above
            if answer is None:
                each.leased_until = now + self._lease
            elif answer.fault is Fault.LOST:
                self._held.pop(each, None)
            answers.append(answer)
        return answers

    async def _tell(self, calls: Mapping[int | None, list[str]]) -> dict[str, AdapterError]:
        """Acknowledge (None), or set deadlines in so many seconds; return what failed, by id."""
        end = self._clock.now() + self._bound
        parts = [
            self._call(seconds, ids[start : start + IDS], end)
            for seconds, ids in calls.items()
            for start in range(0, len(ids), IDS)
        ]
        if len(parts) == 1:
            return await parts[0]
        failed: dict[str, AdapterError] = {}
        for found in await asyncio.gather(*parts):
            failed |= found
        return failed

    async def _call(self, seconds: int | None, ids: list[str], end: float) -> dict[str, AdapterError]:
        api, name = self._api, self._name
        left = end - self._clock.now()
        if left <= 0:
            return dict.fromkeys(ids, AdapterError(Fault.TRANSIENT, f"{name}: not settled in time"))
        try:
            if seconds is None:
                await api.acknowledge(AckRequest(subscription=name, ack_ids=ids), timeout=left, where=name)
            else:
                request = DeadlineRequest(subscription=name, ack_ids=ids, ack_deadline_seconds=seconds)
                await api.deadline(request, timeout=left, where=name)
        except AdapterError as error:
            if named := details_of(error, name):
                # The others are done, unless the call failed for now: those are told again, as Google's library does.
                return dict.fromkeys(ids, error) | named if error.fault is Fault.TRANSIENT else named
            if code_of(error) != "INVALID_ARGUMENT":
                return dict.fromkeys(ids, error)
            if len(ids) == 1:
                return {ids[0]: AdapterError(Fault.LOST, f"{name}: does not know the message's acknowledgement id")}
            half = len(ids) // 2  # one id that is refused refuses the call
            return await self._call(seconds, ids[:half], end) | await self._call(seconds, ids[half:], end)
        return {}

    # -- the end

    async def stop(self) -> None:
        """Take no more, and wait for the poll that is open: what is on its way is handed over."""
        self._stopped = True
        if self._poll is not None:
            await self._until(self._poll, self._hold + SLACK + 0.1)

    async def close(self) -> None:
        """Give back what is not settled, and end the epoch."""
        if self._closed:
            return
        try:
            await self._hand_back()
        finally:
            await self._polls.leave(self._poller)

    async def _hand_back(self) -> None:
        await self.stop()
        self._closed = True
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.cancel()
            await asyncio.wait({poll})
            if not poll.cancelled() and (error := poll.exception()) is not None:
                self._log.debug("%r: its last poll failed: %s", self, error)
        self._buffer.clear()
        now = self._clock.now()
        ours = [each for each in self._held if (each.leased_until or 0.0) > now]
        if ours:
            self._bound = HAND_BACK
            if any(await self._settle([Settlement(each, Verdict.RELEASE) for each in ours])):
                self._log.info("%r: messages go back when their lease ends", self)
        self.epoch.end()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "stopped" if self._stopped else "open"
        return f"<PullReceiver {self.epoch.label} {state} held={len(self._held)} buffered={len(self._buffer)}>"


def _over() -> AdapterError:
    return AdapterError(Fault.LOST, "the lease ran out")
