"""What a scenario plays on: connections to one server, short words for the contract, and a log of all that arrived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from ductape.adapter import (
    AdapterError,
    Channel,
    Clock,
    Connection,
    Delivery,
    Fault,
    Intake,
    Outgoing,
    Receiver,
    Sender,
    Settlement,
    Stored,
    Verdict,
)

from ._ground import Ground, Seen, quietly
from ._harness import Harness
from ._shop import Shop
from ._tap import bare, tapped

T = TypeVar("T")

__all__ = ["Member", "Seen", "Stage"]


class Stage(Ground):
    """One scenario's world: short words for the contract, and clients of the kernel."""

    def __init__(self, harness: Harness, clock: Clock) -> None:
        """Lay out a stage; `open` connects."""
        super().__init__(harness, clock)
        self._members: list[Member] = []

    async def newcomer(self, name: str = "b", **intake: Any) -> Member:
        """Open a member on a connection of its own, after the old ones broke."""
        self._main = None
        if self.can.watermark:  # a log's client may be back in its group by itself, and would share the partitions
            for old in self._members:
                old.drop()
                await quietly(old.receiver)
        return await self.patiently(lambda: self.member(name, alone=True, **intake))

    async def declare(self, *groups: str, **fields: Any) -> None:
        """Declare groups."""
        for group in groups:
            await self.main.declare(self.channel(group, **fields))

    async def sender(self, channel: Channel | None = None, connection: Connection | None = None) -> Sender:
        """Declare, and open a sender."""
        channel, connection = channel or self.channel(), connection or self.main
        await connection.declare(channel)
        sender = await connection.sender(channel)
        self._stack.push_async_callback(quietly, sender)
        return sender

    @staticmethod
    def record(id: str, key: str | None = None, **fields: Any) -> Outgoing:
        """Return a record whose body and header say its id."""
        body = fields.pop("body", id.encode())
        headers = {"ductape-id": id, **fields.pop("headers", {})}
        size = len(body) + sum(len(name) + len(value) for name, value in headers.items())
        return Outgoing(body, headers, id, key, size=size, **{"dedup": id, **fields})

    async def send(self, *records: Outgoing | str, channel: Channel | None = None) -> list[Stored]:
        """Store records, all of them."""
        sender = await self.sender(channel)
        made = [self.record(one) if isinstance(one, str) else one for one in records]
        answers: list[Stored] = []
        for start in range(0, len(made), sender.limits.records):
            for answer in await sender.send(made[start : start + sender.limits.records]):
                assert isinstance(answer, Stored), f"not stored: {answer!r}"
                answers.append(answer)
        assert len(answers) == len(made), "one answer each"
        return answers

    async def member(
        self,
        name: str = "a",
        group: str = "billing",
        *,
        channel: Channel | None = None,
        connection: Connection | None = None,
        alone: bool = False,
        **intake: Any,
    ) -> Member:
        """Declare, and open a receiver; `alone`: on a connection of its own."""
        channel = channel or self.channel(group)
        connection = connection or (await self.connect() if alone else self.main)
        await connection.declare(
            channel if intake.get("start") is None else msgspec.structs.replace(channel, start=intake["start"])
        )
        intake = {"window": 100, "order": channel.order, **intake}
        receiver = await connection.receiver(channel, Intake(group=group, **intake))
        self._stack.push_async_callback(quietly, receiver)
        member = Member(self, name, receiver, connection)
        self._members.append(member)
        return member

    def ids(self, member: str | None = None) -> list[str]:
        """Return the ids of all deliveries (to one member), in order, none left out."""
        return [one.id for one in self.log if member in (None, one.member)]

    async def shop(self, **options: Any) -> Shop:
        """Return a client of the kernel on this server, as a process of its own has one; closed after the scenario."""
        tap = tapped(self.harness.make(), self.config if self.virtual else None)
        shop = Shop(self, tap, **options)
        self._stack.push_async_callback(shop.close)
        return await shop.start()

    async def kill(self, shop: Shop) -> None:
        """Let the process of a client be gone: nothing that it calls reaches the server any more."""
        await shop.die()
        if "crash" in self.harness.hooks():
            for connection in shop.tap.connections:
                await self.harness.crash(bare(connection))


class Member:
    """One receiver, as the kernel would use it."""

    def __init__(self, stage: Stage, name: str, receiver: Receiver, connection: Connection) -> None:
        """Wrap an open receiver."""
        self.stage, self.name, self.receiver, self.connection = stage, name, receiver, connection
        self.held: list[Delivery] = []

    async def receive(self, limit: int = 100, wait: float = 0.0) -> Sequence[Delivery]:
        """Receive once, and write down what came."""
        found = await self.receiver.receive(limit, wait)
        now = self.stage.clock.now()
        for one in found:
            one.epoch.held += 1
            self.held.append(one)
            id = one.headers.get("ductape-id", one.body[:40].decode(errors="replace"))
            self.stage.log.append(Seen(id, self.name, now, one.count))
        return found

    async def take(self, number: int = 1, within: float = 0.0) -> list[Delivery]:
        """Receive exactly `number` deliveries."""
        found: list[Delivery] = []
        clock = self.stage.clock
        end = clock.now() + (within or self.stage.patience)
        while len(found) < number:
            left = end - clock.now()
            assert left > 0, f"{self.name} got {len(found)} of {number}: {[one.body[:20] for one in found]}"
            found += await self.receive(number - len(found), min(left, 0.5))
        return found

    async def rest(self, idle: float = 0.5, total: float = 0.0) -> list[Delivery]:
        """Receive until nothing came for `idle` seconds, at most for `total`."""
        found: list[Delivery] = []
        clock = self.stage.clock
        last, end = clock.now(), clock.now() + (total or idle + 3 * self.stage.patience)
        while clock.now() < last + idle:
            assert clock.now() < end, f"{self.name} still gets something after {len(found)} deliveries"
            some = await self.receive(100, max(0.0, min(0.2, last + idle - clock.now())))
            found += some
            last = clock.now() if some else last
        return found

    async def silence(self, seconds: float) -> None:
        """Nothing arrives for so long."""
        got = await self.rest(seconds)
        assert not got, f"{self.name} got {[one.headers.get('ductape-id', '?') for one in got]}, and should get nothing"

    async def settle(
        self, verdict: Verdict, *deliveries: Delivery, delay: float = 0.0
    ) -> Sequence[AdapterError | None]:
        """Settle; returns the answers."""
        answers = await self._answers([Settlement(one, verdict, delay) for one in deliveries])
        for one in deliveries:
            if one in self.held:
                self.held.remove(one)
                one.epoch.settled()
        return answers

    async def _answers(self, settlements: list[Settlement]) -> list[AdapterError | None]:
        """Settle; what is answered TRANSIENT is settled again, as the kernel does."""
        end = self.stage.clock.now() + self.stage.patience
        while True:
            try:
                answers = list(await self.receiver.settle(settlements))
            except AdapterError as error:
                if error.fault is not Fault.TRANSIENT or self.stage.clock.now() > end:
                    raise
                answers = [error] * len(settlements)
            assert len(answers) == len(settlements), "one answer each"
            again = [number for number, answer in enumerate(answers) if answer and answer.fault is Fault.TRANSIENT]
            if not again or self.stage.clock.now() > end:
                return answers
            await self.stage.clock.sleep(0.05)
            later = await self._answers([settlements[number] for number in again])
            for number, answer in zip(again, later, strict=True):
                answers[number] = answer
            return answers

    async def ack(self, *deliveries: Delivery) -> None:
        """Acknowledge; must be answered well."""
        answers = await self.settle(Verdict.ACK, *deliveries) if deliveries else ()
        assert not any(answers), f"acknowledging was answered {answers}"

    async def release(self, *deliveries: Delivery) -> None:
        """Hand back; must be answered well."""
        answers = await self.settle(Verdict.RELEASE, *deliveries)
        assert not any(answers), f"handing back was answered {answers}"

    async def retry(self, *deliveries: Delivery, delay: float = 0.0) -> None:
        """Say that it failed; must be answered well."""
        answers = await self.settle(Verdict.RETRY, *deliveries, delay=delay)
        assert not any(answers), f"retry was answered {answers}"

    def drop(self) -> None:
        """Count off what is held, as the kernel does with what it gives up."""
        for one in self.held:
            one.epoch.settled()
        self.held.clear()

    async def close(self) -> None:
        """Close, as the kernel does after what it settled."""
        await self.receiver.close()

    async def crash(self) -> None:
        """Be gone without a word. Where there is no such hook, a lease that nobody renews is the same."""
        if "crash" in self.stage.harness.hooks():
            await self.stage.harness.crash(bare(self.connection))
        else:
            assert self.stage.can.lease is not None, "the scenario needs a crash hook or a lease"
