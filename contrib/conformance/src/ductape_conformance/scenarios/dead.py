"""Promise 4: what is given up is kept, with all that it was and why, and can be brought back."""

from __future__ import annotations

from ductape import Reject, Retry
from ductape.adapter import AdapterError, Fault, Purpose
from ductape.errors import DuctapeError
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage
from ductape_conformance._tap import Call


@scenario("dead.exhausted", "groups", level="promise")
async def exhausted(stage: Stage) -> None:
    """After the last attempt the message is a dead letter, with bytes and headers, reason, error and attempts."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: ValueError("no such customer"))
    await shop.subscribe(handler, retry=Retry(attempts=2, delay=0.2))
    receipt = await shop.publish({"n": 1}, headers={"trace": "kept"}, key="customer")
    await handler.until(lambda: len(handler.calls) >= 2, 2 * stage.soon)
    await stage.clock.sleep(1.0)
    (letter,) = await shop.letters()
    assert (letter.id, letter.reason, letter.attempts, letter.group) == (receipt.id, "exhausted", 2, "billing")
    assert "no such customer" in letter.error
    assert letter.body == b'{"n":1}'
    assert letter.headers["trace"] == "kept"
    assert letter.at is not None
    assert len(handler.calls) == 2


@scenario("dead.rejected-at-once", "groups", level="promise")
async def rejected(stage: Stage) -> None:
    """`Reject` makes a dead letter of the message at once, and of no other."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: Reject("not ours") if event.message["n"] == 1 else None)
    await shop.subscribe(handler)
    ids = await shop.many(3)
    await handler.until(lambda: len(handler.done) == 2, stage.patience)
    await stage.clock.sleep(0.5)
    assert [(one.id, one.reason) for one in await shop.letters()] == [(ids[1], "rejected")]
    assert sorted(handler.ids) == sorted(ids)


@scenario("dead.unreadable-blocks-nothing", "groups", level="promise")
async def unreadable(stage: Stage) -> None:
    """Bytes that no codec reads become a dead letter with these bytes, without a handler; what follows is handled."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)
    body = b"{ this is \xff not json"
    headers = {"content-type": "application/json", "ductape-event": shop.name}
    channel = stage.channel(name="new")
    await stage.send(stage.record("bad", body=body, headers=headers), channel=channel)
    receipt = await shop.publish({"n": 2})
    await handler.until(lambda: handler.done, stage.patience)
    await stage.clock.sleep(0.5)
    (letter,) = await shop.letters()
    assert (letter.id, letter.reason, letter.body) == ("bad", "unreadable", body)
    assert handler.ids == [receipt.id]


@scenario("dead.a-garbled-delivery-blocks-nothing", "groups", level="promise")
async def garbled(stage: Stage) -> None:
    """A delivery that the adapter itself could not read follows the same policy, and stops nothing."""
    shop = await stage.shop()
    handler = shop.handler()

    async def spoil(call: Call) -> object:
        found = await call.proceed()
        for one in found:
            if call.purpose is Purpose.EVENTS and one.body == b'{"n":0}':
                one.error = "a field is not UTF-8"
        return found

    shop.tap.rules["receive"] = spoil
    await shop.subscribe(handler)
    ids = await shop.many(3)
    await handler.until(lambda: len(handler.done) == 2, stage.patience)
    await stage.clock.sleep(0.5)
    assert sorted(handler.ids) == sorted(ids[1:])
    assert [(one.id, one.reason) for one in await shop.letters()] == [(ids[0], "unreadable")]


@scenario("dead.stored-before-the-original-goes", "kept", level="promise")
async def before(stage: Stage) -> None:
    """If the dead letter cannot be stored the original stays, and health says so; it is buried when it can be."""
    shop = await stage.shop()
    down = True

    async def refuse(call: Call) -> object:
        if call.purpose is Purpose.DEAD and down:
            raise AdapterError(Fault.TRANSIENT, "no room for dead letters")
        return await call.proceed()

    shop.tap.rules["send"] = refuse
    handler = shop.handler(lambda event: Reject("no"))
    await shop.subscribe(handler)
    await shop.publish({"n": 1})
    await handler.until(lambda: handler.calls, stage.patience)
    await stage.clock.sleep(3.0)
    acks = [one for call in shop.tap.of("settle", purpose=Purpose.EVENTS) for one in call.args[0]]
    assert acks == [], "the original is settled only after its letter is stored"
    down = False
    await shop.until(lambda: shop.tap.of("settle", purpose=Purpose.EVENTS), 40.0)
    assert len(await shop.letters()) == 1
    assert len(handler.calls) == 1


@scenario("dead.replay-reaches-one-group", "many", level="promise")
async def replay(stage: Stage) -> None:
    """A replayed letter reaches its group alone, with its id and fresh attempts, and is no letter any more."""
    shop = await stage.shop(topic={"groups": ("billing", "audit")})
    mended = False
    bill = shop.handler(lambda event: None if mended else Reject("no"))
    audit = shop.handler()
    await shop.subscribe(bill, "billing")
    await shop.subscribe(audit, "audit")
    receipt = await shop.publish({"n": 1})
    await bill.until(lambda: bill.calls, stage.patience)
    await stage.clock.sleep(0.5)
    mended = True
    assert await shop.replay() == 1
    await bill.until(lambda: bill.done, stage.soon)
    assert (bill.ids, bill.attempts) == ([receipt.id] * 2, [1, 1])
    assert audit.ids == [receipt.id]
    assert await shop.letters() == []


@scenario("dead.looking-takes-nothing", "kept", level="promise")
async def looking(stage: Stage) -> None:
    """Listing letters leaves them where they are; dropping one removes that one."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: Reject("no"))
    await shop.subscribe(handler)
    ids = await shop.many(3)
    await handler.until(lambda: len(handler.calls) == 3, stage.patience)
    await stage.clock.sleep(0.5)
    for _ in range(2):
        assert {one.id for one in await shop.letters()} == set(ids)
    async for letter in shop.client.event.dead(shop.name, group="billing"):
        if letter.id == ids[0]:
            await letter.drop()
    assert {one.id for one in await shop.letters()} == set(ids[1:])


@scenario("dead.there-is-always-room-for-it", "groups", level="promise")
async def room(stage: Stage) -> None:
    """Whatever publish accepts can become a dead letter, the most headers and the largest body included."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: Reject("x" * 5000))
    await shop.subscribe(handler)
    accepted = 0
    for number in range(min(stage.can.max_headers or 20, 100) + 1):
        try:
            await shop.publish({"n": number}, headers={f"h{n}": "v" for n in range(number)})
        except DuctapeError:
            break
        accepted += 1
    for size in (1 << number for number in range(4, 21)):
        try:
            await shop.publish("x" * size)
        except DuctapeError:
            break
        accepted += 1
    await handler.until(lambda: len(handler.calls) >= accepted, 2 * stage.patience)
    await stage.clock.sleep(1.0)
    assert len(await shop.letters()) == accepted
    assert (await shop.client.health()).healthy
