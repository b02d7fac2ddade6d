"""Random histories: whatever members do, nothing is lost, nothing settled comes back, and no key is overtaken."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ductape.adapter import Order, Settlement, Verdict

_VERDICTS = [Verdict.ACK, Verdict.ACK, Verdict.RETRY, Verdict.RELEASE]


def stored(body: str) -> str:
    """Return the place in the stored order."""
    return body[1:]


class Story:
    """Members that come and go, and settle what they hold in any order."""

    def __init__(self, world: Any, seed: int, order: Order) -> None:
        self.world, self.random, self.order = world, random.Random(seed), order
        self.members: list[Any] = []
        self.held: dict[Any, list[Any]] = {}
        self.sent: list[str] = []
        self.done: list[str] = []

    async def begin(self, imitate: str) -> None:
        self.connection = await self.world.connect(imitate=imitate, lease=20)
        await self.connection.declare(self.world.channel(order=self.order))
        self.sender = await self.connection.sender(self.world.channel(order=self.order))

    async def send(self) -> None:
        records = []
        for _ in range(self.random.randint(1, 8)):
            key = self.random.choice("wxyz")
            self.sent.append(f"{key}{len(self.sent):06d}")
            records.append(self.world.record(self.sent[-1], key))
        await self.sender.send(records)

    async def join(self) -> None:
        if len(self.members) < 4:
            member = await self.world.receiver(self.connection, window=10, order=self.order)
            self.members.append(member)
            self.held[member] = []

    async def leave(self) -> None:
        if len(self.members) > 1:
            member = self.members.pop(self.random.randrange(len(self.members)))
            del self.held[member]
            if self.random.random() < 0.5:
                member.lose("crash")
            await member.close()

    async def take(self) -> None:
        member = self.random.choice(self.members)
        held = self.held[member]
        held += await member.receive(self.random.randint(1, 9), 0)
        self.held[member] = [one for one in held if one.epoch.alive]
        if self.order is not Order.NONE:
            self.check_order()

    def check_order(self) -> None:
        """A key, or everything, is in one member's hands, and begins with the oldest that is not done."""
        now, done = self.world.clock.now(), set(self.done)
        hands: dict[str, dict[int, list[str]]] = {}
        for number, held in enumerate(self.held.values()):
            for one in held:
                if one.epoch.alive and (one.leased_until is None or one.leased_until > now):
                    name = one.key if self.order is Order.KEY else ""
                    hands.setdefault(name, {}).setdefault(number, []).append(one.body.decode())
        for name, members in hands.items():
            (out,) = members.values()
            assert min(out, key=stored) == next(one for one in self.sent if one.startswith(name) and one not in done)

    async def settle(self) -> None:
        """Settle the first of a key only: the kernel handles an ordered key one at a time."""
        member = self.random.choice(self.members)
        held = self.held[member]
        heads: dict[str, Any] = {}
        for one in sorted(held, key=lambda one: stored(one.body.decode())):
            heads.setdefault(one.key if self.order is Order.KEY else "", one)
        chosen = list(heads.values()) if self.order is not Order.NONE else self.random.sample(held, len(held) // 2)
        for one in chosen:
            verdict = self.random.choice(_VERDICTS)
            if self.order is not Order.NONE and verdict is not Verdict.ACK:
                # What is behind a head that goes back goes back before it.
                mates = [two for two in held if self.order is Order.TOTAL or two.key == one.key]
                group = [Settlement(two, Verdict.RELEASE) for two in mates if two is not one]
            else:
                group = []
            group.append(Settlement(one, verdict, self.random.choice([0, 1, 5])))
            answers = await member.settle(group)
            if verdict is Verdict.ACK and answers[-1] is None:
                self.done.append(one.body.decode())
            for settlement in group:
                held.remove(settlement.delivery)

    async def wait(self) -> None:
        await self.world.clock.advance(self.random.choice([0.5, 3, 25]))

    async def finish(self) -> None:
        for member in self.members:
            await member.close()
        await self.world.clock.advance(30)
        last = await self.world.receiver(self.connection, window=10**6, order=self.order)
        while taken := await last.receive(10**6, 0):
            self.done += self.world.bodies(taken)
            await self.world.ack(last, *taken)
            await self.world.clock.advance(1)


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("imitate", ["queue", "log"])
@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_lost_and_nothing_settled_comes_back(
    world: Any, imitate: str, order: Order, seed: int
) -> None:
    story = Story(world, seed, order)
    await story.begin(imitate)
    await story.join()
    steps = [story.send, story.take, story.take, story.settle, story.settle, story.join, story.leave, story.wait]
    for _ in range(300):
        await story.random.choices(steps, [4, 4, 4, 4, 4, 1, 1, 1])[0]()
    await story.finish()
    assert sorted(story.done, key=stored) == story.sent
    assert world.broker.pending(idle=True) == 0
    assert world.broker.depth("orders", "billing") == 0
    (store,) = world.broker.state.stores.values()
    if imitate == "queue":
        assert (store.messages, store.bytes) == (0, 0)
