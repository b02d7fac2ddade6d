"""Order, where it is declared: per key, in total, and across the loss of a member."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ductape.adapter import Delivery, Order
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage


def by_key(deliveries: Iterable[Delivery]) -> dict[str | None, list[int]]:
    """Return the numbers of each key, as they came."""
    found: dict[str | None, list[int]] = defaultdict(list)
    for one in deliveries:
        found[one.key].append(int(one.headers["ductape-id"][1:]))
    return found


async def filled(stage: Stage, number: int = 40, keys: int = 4, order: Order = Order.KEY) -> None:
    """Declare an ordered channel, and store numbered records on it."""
    channel = stage.channel(order=order)
    await stage.main.declare(channel)
    await stage.send(*(stage.record(f"m{n}", f"k{n % keys}") for n in range(number)), channel=channel)


@scenario("order.per-key", needs="order kept")
async def per_key(stage: Stage) -> None:
    """The messages of one key are delivered in the order in which they were stored."""
    await filled(stage)
    member = await stage.member(channel=stage.channel(order=Order.KEY))
    got: list[Delivery] = []
    while len(got) < 40:
        some = await member.take(1)
        await member.ack(*some)
        got += some
    assert all(numbers == sorted(numbers) for numbers in by_key(got).values())
    assert len(by_key(got)) == 4


@scenario("order.in-total", needs="total kept")
async def total(stage: Stage) -> None:
    """Where a total order is asked for, all messages are delivered in the order in which they were stored."""
    await filled(stage, order=Order.TOTAL)
    member = await stage.member(channel=stage.channel(order=Order.TOTAL))
    numbers: list[int] = []
    while len(numbers) < 40:
        (one,) = await member.take(1)
        await member.ack(one)
        numbers.append(int(one.headers["ductape-id"][1:]))
    assert numbers == list(range(40))


@scenario("order.a-key-has-one-owner", needs="order kept")
async def owner(stage: Stage) -> None:
    """While a member has a message of a key, no other member is given one of that key."""
    channel = stage.channel(order=Order.KEY)
    first = await stage.member("a", channel=channel, alone=True)
    second = await stage.member("b", channel=channel, alone=True)
    await filled(stage, 40, 7)
    owners: dict[str | None, str] = {}
    for _ in range(60):
        for member in (first, second):
            for one in await member.receive(2, 0.02):
                assert owners.setdefault(one.key, member.name) == member.name, f"{one.key} is with both"
            for one in [each for each in member.held if each.epoch.alive][:1]:
                await member.ack(one)
                if all(each.key != one.key for each in member.held):
                    del owners[one.key]
    await stage.until(lambda: len(set(stage.ids())) >= 20)


@scenario("order.kept-across-a-crash", needs="order kept crash")
async def crash(stage: Stage) -> None:
    """A member crashes with a full window: what it had is delivered again first, in its order."""
    channel = stage.channel(order=Order.KEY)
    first = await stage.member("a", channel=channel, alone=True, window=20)
    await filled(stage, 60, 4)
    done: dict[str | None, list[int]] = defaultdict(list)
    for one in await first.take(20):
        if len(done[one.key]) < 2 and one is next(each for each in first.held if each.key == one.key):
            await first.ack(one)
            done[one.key].append(int(one.headers["ductape-id"][1:]))
    first.drop()
    await first.crash()
    second = await stage.member("b", channel=channel, alone=True)
    end = stage.clock.now() + stage.soon + stage.patience
    while sum(map(len, done.values())) < 60 and stage.clock.now() < end:
        for one in await second.receive(10, 0.2):
            done[one.key].append(int(one.headers["ductape-id"][1:]))
            await second.ack(one)
    assert {key: numbers for key, numbers in done.items() if numbers != sorted(set(numbers))} == {}
    assert sum(map(len, done.values())) == 60


@scenario("order.stopping-gives-no-key-away", needs="order kept")
async def stopping(stage: Stage) -> None:
    """A member that was asked to stop keeps the keys that still run there, until it closes."""
    channel = stage.channel(order=Order.KEY)
    first = await stage.member("a", channel=channel, alone=True)
    await filled(stage, 12, 2)
    out = await first.take(2)
    await first.receiver.stop()
    out += await first.receive(100, 0.0)
    if stage.can.watermark:  # joining would wait for what runs: ask on the same terms afterwards
        await first.ack(*out)
        await first.close()
        second = await stage.member("b", channel=channel, alone=True)
    else:
        second = await stage.member("b", channel=channel, alone=True)
        keys = {one.key for one in out}
        assert not [one for one in await second.receive(100, 0.5) if one.key in keys], "it still runs there"
        await first.ack(*out)
        await first.close()
    await stage.until(lambda: True)
    rest = [*second.held]
    while len(out) + len(rest) < 12:
        rest += await second.take(1, within=stage.soon)
        await second.ack(*rest[-1:])
    assert all(numbers == sorted(set(numbers)) for numbers in by_key([*out, *rest]).values())
