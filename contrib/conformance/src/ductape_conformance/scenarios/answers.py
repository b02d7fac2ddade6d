"""What the kernel makes of an adapter's answers: a refused settlement, an opening that fails."""

from __future__ import annotations

from ductape.adapter import AdapterError, Fault, Purpose
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage
from ductape_conformance._tap import Call


@scenario("kernel.a-refused-settlement-stops-receiving", "kept", level="promise")
async def refused(stage: Stage) -> None:
    """While settling is answered CONFIG nothing more is received, which would only pile up; then all goes on."""
    shop = await stage.shop()
    denied = [True]

    async def settle(call: Call) -> object:
        if call.purpose is Purpose.EVENTS and denied:
            return [AdapterError(Fault.CONFIG, "not permitted") for _ in call.args[0]]
        return await call.proceed()

    async def receive(call: Call) -> object:
        return await call.proceed(call.args[0], min(call.args[1], 0.2))

    shop.tap.rules |= {"settle": settle, "receive": receive}
    handler = shop.handler()
    await shop.subscribe(handler, prefetch=100)
    await shop.many(3)
    await handler.handled(3, stage.patience)
    await shop.until(lambda: shop.tap.of("settle", purpose=Purpose.EVENTS), stage.patience)
    await shop.until(lambda: not _asking(shop.tap.of("receive", purpose=Purpose.EVENTS)), stage.patience)
    more = await shop.many(10)
    await stage.clock.sleep(0.7)
    assert not set(more) & set(handler.ids), "received while nothing can be settled"
    denied.clear()
    await handler.until(lambda: set(more) <= set(handler.done), stage.soon + stage.patience)


def _asking(calls: list[Call]) -> bool:
    """Tell whether the last call asked for anything."""
    return not calls or bool(calls[-1].args[0])


@scenario("kernel.a-lost-opening-takes-a-new-connection", "kept", level="promise")
async def reopened(stage: Stage) -> None:
    """Where opening a sender or receiver is LOST the connection is given up; what waits to be sent is sent."""
    shop = await stage.shop()
    left = {"sender": 1, "receiver": 1}

    async def opening(call: Call) -> object:
        if call.purpose is Purpose.EVENTS and left[call.method]:
            left[call.method] = 0
            raise AdapterError(Fault.LOST, "this connection opens nothing more")
        return await call.proceed()

    shop.tap.rules |= {"sender": opening, "receiver": opening}
    handler = shop.handler()
    await shop.subscribe(handler)
    (id,) = await shop.many(1)
    await handler.handled(1, stage.patience)
    assert left == {"sender": 0, "receiver": 0}
    assert set(handler.ids) == {id}
    assert len(shop.tap.connections) > 1, "an open connection on which an opening is LOST is not used again"
