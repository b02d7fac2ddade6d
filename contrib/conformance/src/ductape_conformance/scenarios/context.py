"""Promises 10 and 11: what travels with a message, and what stands on the wire."""

from __future__ import annotations

import json

from ductape import Event, Reject, Retry
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage

TRACE = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "baggage": "tenant=blue"}


@scenario("context.survives-retries", level="promise")
async def retries(stage: Stage) -> None:
    """Trace context, headers, id, key and session are the same in every attempt."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: ValueError("no") if event.attempt < 3 else None)
    await shop.subscribe(handler, retry=Retry(delay=0.2))
    session = {"tag": "user-session", "token": "opensesame"}
    receipt = await shop.publish({"n": 1}, headers={**TRACE, "mine": "yes"}, key="customer", session=session)
    await handler.until(lambda: handler.done, 3 * stage.soon)
    assert len(handler.calls) == 3
    for one in handler.calls:
        event = one.event
        assert (event.id, event.key, event.name) == (receipt.id, "customer", shop.name)
        assert {**TRACE, "mine": "yes"}.items() <= dict(event.headers).items()
        assert event.session is not None
        assert (event.session.tag, event.session.token) == ("user-session", "opensesame")
        assert "opensesame" not in repr(event) + repr(event.session)


@scenario("context.survives-dead-letter-and-replay", "groups", level="promise")
async def dead(stage: Stage) -> None:
    """Trace context, headers, id, key and session survive a dead letter and its replay; nothing is appended."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: Reject("no") if len(handler.calls) < 3 else None)
    await shop.subscribe(handler)
    await shop.publish({"n": 1}, headers=TRACE, key="customer", session={"tag": "s", "token": "t"})
    for number in (1, 2):
        await handler.called(number, stage.patience)
        await stage.clock.sleep(0.5)
        (letter,) = await shop.letters()
        assert TRACE.items() <= dict(letter.headers).items()
        assert letter.attempts == 1
        assert await shop.replay() == 1
    await handler.until(lambda: handler.done, stage.patience)
    first, last = handler.calls[0].event, handler.calls[-1].event
    assert (last.id, last.key, last.session, last.body) == (first.id, first.key, first.session, first.body)
    assert dict(last.headers) == dict(first.headers)


@scenario("wire.body-is-plain", level="promise")
async def plain(stage: Stage) -> None:
    """The body on the wire is exactly what the codec made, and its headers say what it is."""
    shop = await stage.shop()
    reader = await stage.member("reader", channel=stage.channel(name="new"))
    receipt = await shop.publish({"orderId": "1", "total": 9.5}, headers={"mine": "yes"})
    (one,) = await reader.take(1)
    await reader.ack(one)
    assert json.loads(one.body) == {"orderId": "1", "total": 9.5}
    assert one.body == b'{"orderId":"1","total":9.5}'
    wanted = {"ductape-id": receipt.id, "ductape-event": shop.name, "content-type": "application/json", "mine": "yes"}
    assert wanted.items() <= dict(one.headers).items()


@scenario("wire.foreign-messages-are-handled", level="promise")
async def foreign(stage: Stage) -> None:
    """A message of a producer that knows nothing of ductape is handled like any other, retries included."""
    shop = await stage.shop()

    def act(event: Event[dict[str, int]]) -> object:
        return ValueError("no") if event.message["n"] == 1 and event.attempt == 1 else None

    handler = shop.handler(act)
    await shop.subscribe(handler, retry=Retry(delay=0.2))
    sender = await stage.sender(stage.channel(name="new"))
    record = stage.record("theirs", body=b'{"n": 1}')
    bare = type(record)(record.body, {}, "theirs")
    await sender.send([bare])
    await handler.until(lambda: handler.done, 2 * stage.soon)
    assert handler.attempts == [1, 2]
    assert {one["n"] for one in handler.messages} == {1}
