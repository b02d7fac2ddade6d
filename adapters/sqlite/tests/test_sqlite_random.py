"""Whatever two members do, in whatever order: nothing is with two, nothing overtakes, nothing is lost."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest

from ductape.adapter import Delivery, Order, Settlement, Verdict

LEASE = 10.0


class Model:
    """What has to be true, kept beside the file."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.out: dict[int, tuple[Any, Delivery]] = {}
        self.done: set[int] = set()
        self.lanes: dict[str, list[int]] = defaultdict(list)
        self.now = 0.0

    def lane(self, key: str | None) -> str | None:
        return "" if self.order is Order.TOTAL else key if self.order is Order.KEY else None

    def sent(self, number: int, key: str | None) -> None:
        lane = self.lane(key)
        if lane is not None:
            self.lanes[lane].append(number)

    def got(self, member: Any, deliveries: Any) -> None:
        numbers = [int(one.body) for one in deliveries]
        assert len(set(numbers)) == len(numbers), "one call gives nothing twice"
        for number, one in zip(numbers, deliveries, strict=True):
            assert number not in self.done, f"{number} was settled"
            assert number not in self.out or self.lapsed(number), f"{number} is out already"
            self.out[number] = member, one
        for number, one in zip(numbers, deliveries, strict=True):
            lane = self.lane(one.key)
            if lane is None:
                continue
            before = [each for each in self.lanes[lane] if each < number and each not in self.done]
            ours = [each for each in before if each in self.out and self.out[each][0] is member]
            assert before == ours, f"{number} overtakes {sorted(set(before) - set(ours))}"
            out = [each for each in self.lanes[lane] if each in self.out and not self.lapsed(each)]
            assert set(out) <= set(numbers), f"{number} was given while {set(out) - set(numbers)} were out"

    def lapsed(self, number: int) -> bool:
        return (self.out[number][1].leased_until or 0.0) <= self.now

    def gone(self, number: int) -> None:
        del self.out[number]


@pytest.mark.parametrize("order", [Order.NONE, Order.KEY, Order.TOTAL])
@pytest.mark.parametrize("seed", range(4))
async def test_any_sequence_of_calls_keeps_what_is_promised(world: Any, order: Order, seed: int) -> None:
    dice = random.Random(seed)
    model = Model(order)
    connection = await world.connect(lease=LEASE, synchronous="off")
    members = [await world.receiver(connection, window=20, order=order) for _ in range(2)]
    number = 0

    async def send() -> None:
        nonlocal number
        keys = [dice.choice([None, "a", "b", "c", "d"]) for _ in range(dice.randint(1, 12))]
        for each, key in enumerate(keys):
            model.sent(number + each, key)
        records = [world.record(str(number + each), key) for each, key in enumerate(keys)]
        number += len(keys)
        await world.send(connection, *records, order=order)

    async def receive() -> None:
        member = dice.choice(members)
        model.got(member, await member.receive(dice.randint(1, 20), 0.0))

    async def settle() -> None:
        member = dice.choice(members)
        mine = [each for each, (who, _) in model.out.items() if who is member and not model.lapsed(each)]
        chosen = dice.sample(mine, dice.randint(0, len(mine)))
        verdicts = {each: dice.choice([Verdict.ACK, Verdict.ACK, Verdict.RETRY, Verdict.RELEASE]) for each in chosen}
        answers = await member.settle(
            [Settlement(model.out[each][1], verdict, dice.choice([0.0, 3.0])) for each, verdict in verdicts.items()]
        )
        assert not any(answers), answers
        for each, verdict in verdicts.items():
            model.gone(each)
            if verdict is Verdict.ACK:
                model.done.add(each)

    async def extend() -> None:
        member = dice.choice(members)
        mine = [one for each, (who, one) in model.out.items() if who is member and not model.lapsed(each)]
        assert not any(await member.extend(dice.sample(mine, dice.randint(0, len(mine)))))

    async def jump() -> None:
        world.clock.ahead += dice.choice([1.0, 4.0, LEASE + 1.0])

    for _ in range(150):
        model.now = world.clock.now()
        await dice.choice([send, receive, receive, settle, settle, extend, jump])()
    for _ in range(200):
        model.now = world.clock.now()
        world.clock.ahead += 5.0
        for member in members:
            model.now = world.clock.now()
            got = await member.receive(20, 0.0)
            model.got(member, got)
            await world.ack(member, *got)
            for one in got:
                model.gone(int(one.body))
                model.done.add(int(one.body))
        if len(model.done) == number:
            break
    assert model.done == set(range(number))
    assert world.sql("SELECT count(*) FROM ductape_held") == [(0,)]
