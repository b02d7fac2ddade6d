"""Where a history is played: the members in their slots, and the calls that are made for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from ductape.adapter import (
    AdapterError,
    Channel,
    Connection,
    Delivery,
    Epoch,
    Fault,
    Groups,
    Order,
    Purpose,
    Sender,
    Settlement,
    Stored,
    Verdict,
)

from ._ground import quietly
from ._model import Holding, Model, Violation
from ._stage import Member, Stage
from ._steps import SLOTS, WINDOWS

__all__ = ["Seat", "Table"]

T = TypeVar("T")
NAMES = "abcd"


class Seat:
    """A member in its slot, for as long as it lives."""

    def __init__(self, table: Table, name: str, group: str, member: Member, window: int) -> None:
        """Sit down."""
        self.table, self.name, self.group, self.member, self.window = table, name, group, member, window
        self.gone = False
        self.settling = asyncio.Lock()
        self.epochs: set[Epoch] = set()

    def __repr__(self) -> str:
        return self.name

    def meet(self, delivery: Delivery) -> None:
        """Hold a delivery as the kernel does: counted on its epoch, and dropped when that takes no more."""
        delivery.epoch.held += 1
        if delivery.epoch not in self.epochs:
            self.epochs.add(delivery.epoch)
            delivery.epoch.watch(self._changed)

    def _changed(self, epoch: Epoch) -> None:
        self.table.give_up(epoch=epoch)


class Table:
    """One channel, its groups, and who sits in the slots."""

    def __init__(self, stage: Stage, ordered: bool) -> None:
        """Set up; nobody sits yet."""
        self.stage, self.clock = stage, stage.clock
        can = stage.can
        self.many = can.groups is Groups.MANY
        self.ordered = ordered and can.order >= Order.KEY
        self.groups = ("billing", "audit") if self.many else ("billing",)
        self.model = Model(can, self.groups, self.ordered)
        self.story: list[str] = []
        """What happened, for people."""
        self.channel = stage.channel(order=Order.KEY if self.ordered else Order.NONE)
        self.seats: dict[int, Seat] = {}
        self._connection: Connection | None = None
        self._senders: dict[tuple[str, ...], Sender] = {}
        self._busy: dict[object, asyncio.Lock] = {}
        self._number = 0

    def give_up(self, *, epoch: Epoch | None = None, member: Seat | None = None) -> None:
        """Drop what belongs to an epoch or a member: it is, or will be, with others."""
        for one in list(self.model.held):
            mine = one.member is member or (epoch is not None and one.delivery.epoch is epoch)
            if mine and not one.settling:
                one.delivery.epoch.settled()
        if member is not None:
            self.model.dropped(member=member)
        if epoch is not None:
            self.model.dropped(epoch=epoch)

    def of(self, group: str, purpose: Purpose = Purpose.EVENTS) -> Channel:
        order = self.channel.order if purpose is Purpose.EVENTS else Order.NONE
        return self.stage.channel(group, order=order, purpose=purpose)

    def tell(self, *words: object) -> None:
        self.story.append(f"{self.clock.now() % 100000:9.3f}  " + " ".join(map(str, words)))

    def lock(self, what: object) -> asyncio.Lock:
        return self._busy.setdefault(what, asyncio.Lock())

    async def call(self, what: str, call: Coroutine[Any, Any, T], seconds: float) -> T | AdapterError:
        """Make a call that must end within its bound; what it raises is its answer."""
        task = asyncio.ensure_future(call)
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.clock.call_later(seconds, over.cancel)
        await asyncio.wait([task, over], return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]  # of two kinds
        timer.cancel()
        if not task.done():
            task.cancel()
            raise Violation(f"{what} did not end within {seconds:g} s")
        over.cancel()
        try:
            return task.result()
        except AdapterError as error:
            return error
        except Exception as error:
            raise Violation(f"{what} raised {error!r}, which is no AdapterError") from error

    async def seat(self, slot: int) -> Seat:
        """Return who sits there; open if nobody does."""
        async with self.lock(slot):
            seat = self.seats.get(slot)
            if seat is None:
                same = self.ordered and "random.windows-differ" in self.stage.harness.quirks
                name, window = NAMES[slot], WINDOWS[0 if same else slot]
                group = "audit" if self.many and slot == SLOTS - 1 else "billing"
                member = await self.stage.patiently(
                    lambda: self.stage.member(name, group, channel=self.of(group), alone=True, window=window)
                )
                seat = self.seats[slot] = Seat(self, name, group, member, window)
                self.tell(name, "opens in group", group)
            return seat

    async def leave(self, seat: Seat, why: object) -> None:
        """Close a member that is lost, as the kernel does."""
        if not seat.gone:
            seat.gone = True
            self.tell(seat, "is lost and closed:", why)
            self.unseat(seat)
            self.unsure(seat)
            await quietly(seat.member.receiver)
            await quietly(seat.member.connection)
            self.give_up(member=seat)

    def unseat(self, seat: Seat) -> None:
        for slot, one in list(self.seats.items()):
            if one is seat:
                del self.seats[slot]

    def unsure(self, seat: Seat, *, counts: bool = True) -> None:
        """What a member holds may be with others from now on; what it had inside may have been counted."""
        for one in self.model.held:
            if one.member is seat:
                one.sure = False
        for fates in self.model.fates.values():
            for fate in fates.values():
                fate.certain = fate.certain and not counts

    async def _sender(self, channel: Channel) -> Sender:
        if (known := self._senders.get(channel.identity)) is None:
            connection, self._connection = self._connection or await self.stage.connect(), None
            known = self._senders[channel.identity] = await self.stage.sender(channel, connection)
            self._connection = connection  # one that cannot open a sender is given up
        return known

    async def store(self, channel: Channel, records: list[Any]) -> list[Stored | AdapterError]:
        """Send once; a sender that is lost is closed with its connection."""
        async with self.lock("send"):
            sender = await self.stage.patiently(lambda: self._sender(channel))
            answers = await self.call("send", sender.send(records), sender.limits.seconds)
            if isinstance(answers, AdapterError):
                answers = [AdapterError(Fault.AMBIGUOUS, str(answers))] * len(records)
            if len(answers) != len(records):
                raise Violation(f"send gave {len(answers)} answers to {len(records)} records")
            if any(isinstance(one, AdapterError) for one in answers):
                self._senders.clear()
                broken, self._connection = self._connection, None
                if broken is not None:
                    await quietly(sender)
                    await quietly(broken)
            return list(answers)

    async def taken(self, seat: Seat, found: Sequence[Delivery] | AdapterError, limit: int) -> None:
        if isinstance(found, AdapterError):
            if found.fault is Fault.TRANSIENT:
                self.tell(seat, "received", found)
            else:
                await self.leave(seat, found)
            return
        ids = [one.headers.get("ductape-id", "?") for one in found]
        self.tell(seat, "receives", *(ids or ["nothing"]))
        if len(found) > limit:
            raise Violation(f"{len(found)} deliveries, and {limit} were asked for")
        for one in found:
            if not one.epoch.alive:  # its member, or the connection, ended meanwhile: the kernel drops it
                self.model.fates[seat.group][one.headers.get("ductape-id", "?")].certain = False
                continue
            self.model.given(seat.group, seat, one, self.clock.now(), seat.window)
            seat.meet(one)

    async def decide(self, seat: Seat, chosen: list[Holding], verdict: Verdict, delay: float = 0.0) -> None:
        async with self.lock((seat, "settle")):
            chosen = [one for one in chosen if one in self.model.held and one.delivery.epoch.alive]
            if seat.gone or not chosen:
                return
            due = self.clock.now() + delay if delay else 0.0
            before = self.model.settling(chosen, verdict, self.clock.now())
            settlements = [Settlement(one.delivery, verdict, delay) for one in chosen]
            answers = await self.call("settle", seat.member.receiver.settle(settlements), 10.0)
            raised = answers if isinstance(answers, AdapterError) else None
            each = [raised] * len(chosen) if isinstance(answers, AdapterError) else list(answers)
            if len(each) != len(chosen):
                raise Violation(f"settle gave {len(each)} answers to {len(chosen)} settlements")
            words = [f"{one.id}{f' ({answer})' if answer else ''}" for one, answer in zip(chosen, each, strict=True)]
            self.tell(seat, verdict.value, *words, f"for {delay:g} s" if delay else "")
            for one, answer, was in zip(chosen, each, before, strict=True):
                self.model.settled(one, verdict, _unsaid(answer, raised), due, was)
                if one not in self.model.held:
                    one.delivery.epoch.settled()
        if raised is not None and raised.fault is not Fault.TRANSIENT:
            await self.leave(seat, raised)


def _unsaid(answer: AdapterError | None, raised: AdapterError | None) -> AdapterError | None:
    """Return an answer; what was raised concerns the receiver, and says nothing of a delivery."""
    return answer if raised is None else AdapterError(Fault.AMBIGUOUS, str(raised))
