"""What one caller or one key does must not harm the others; middleware; and a process that is killed."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any

from ductape import Event, Middleware, Reject, Retry
from ductape_conformance._scenario import NotApplicable, scenario
from ductape_conformance._shop import Handled
from ductape_conformance._stage import Stage
from ductape_conformance._tap import Call

from .lanes import TOPIC


@scenario("delivery.a-cancelled-publish-harms-nobody", level="promise")
async def cancelled(stage: Stage) -> None:
    """A caller that is cancelled while its message waits or is being sent harms no other, and nothing is held up."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)
    await shop.publish({"n": -1})

    async def slow(call: Call) -> object:
        await shop.clock.sleep(0.2)
        return await call.proceed()

    shop.tap.rules["send"] = slow
    calls = [asyncio.ensure_future(shop.publish({"n": n}, key=f"k{n % 3}")) for n in range(20)]
    await stage.clock.sleep(0.1)  # the first are under way, the others wait behind them
    for number, call in enumerate(calls):
        if number % 2:
            call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    kept = {one.id for one in results if not isinstance(one, BaseException)}
    assert [isinstance(one, asyncio.CancelledError) for one in results] == [bool(n % 2) for n in range(20)]
    more = {(await shop.publish({"n": 100 + n}, key=f"k{n}")).id for n in range(3)}
    await handler.until(lambda: set(handler.done) >= kept | more, stage.patience)
    await shop.until(lambda: [one.pending for one in health_now(shop)] == [0])
    assert len(handler.ids) == len(set(handler.ids)), "nothing was sent twice for it"
    assert shop.tap.broken == []


def health_now(shop: Any) -> list[Any]:
    """Return what waits to be stored, of each outbox."""
    engine = shop.client._engine
    return list(engine.outboxes.values()) if engine is not None else []


class Watching(Middleware):
    """Notes what passes."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self.handled: list[tuple[int, str]] = []
        self.moves: list[str] = []

    def publisher(self, next: Any, site: Any) -> Any:
        """Note what is published."""

        async def publish(message: Any) -> Any:
            self.published.append(site.event)
            return await next(message)

        return publish

    def subscriber(self, next: Any, site: Any) -> Any:
        """Note every attempt, and how it ended."""

        async def handle(event: Event[Any]) -> object:
            try:
                result: object = await next(event)
            except Exception as error:
                self.handled.append((event.attempt, type(error).__name__))
                raise
            self.handled.append((event.attempt, "ok"))
            return result

        return handle

    def moved(self, event: Any, where: str, reason: str, site: Any) -> None:
        """Note what was stored again."""
        self.moves.append(f"{where}: {reason}")


@scenario("context.middleware-sees-every-attempt", "groups", level="promise")
async def watched(stage: Stage) -> None:
    """Middleware runs once a publish, around every attempt of a handler, and sees how each ended; moves are told."""
    watching = Watching()
    shop = await stage.shop(middleware=[watching])
    ends = {1: ValueError("no"), 2: Reject("never")}
    handler = shop.handler(lambda event: ends[event.attempt])
    await shop.subscribe(handler, retry=Retry(attempts=5, delay=0.2))
    await shop.publish({"n": 1})
    await shop.until(lambda: "dead: rejected" in watching.moves, 3 * stage.soon)
    assert watching.published == [shop.name]
    assert watching.handled == [(1, "ValueError"), (2, "Reject")]
    assert watching.moves[-1] == "dead: rejected"


@scenario("lanes.blocked-keys-do-not-fill-the-window", "order locks kept", level="promise")
async def room(stage: Stage) -> None:
    """Keys whose heads wait for a retry keep an eighth of the window each at most: others are not held up."""
    shop = await stage.shop(topic=TOPIC)
    failed: set[str] = set()

    def act(event: Event[Any]) -> object:
        if str(event.key).startswith("bad") and event.key not in failed:
            failed.add(str(event.key))
            return ValueError("not yet")
        return None

    handler = shop.handler(act)
    for bad in ("bad1", "bad2"):
        await shop.many(60, key=lambda message, bad=bad: bad)
    await shop.subscribe(handler, order="key", concurrency=4, prefetch=64, retry=Retry(delay=4.0))
    await handler.until(lambda: len(failed) == 2, stage.patience)
    began = stage.clock.now()
    await shop.many(40, key=lambda message: f"good{message['n']}")

    def good() -> list[Handled]:
        return [one for one in handler.calls if str(one.event.key).startswith("good")]

    await handler.until(lambda: len(good()) >= 40, stage.patience)
    assert stage.clock.now() - began < 3.5, "before the heads were tried again"
    await handler.until(lambda: len(handler.done) >= 160, 10 * stage.patience)
    for bad in ("bad1", "bad2"):
        numbers = [one.event.message["n"] for one in handler.calls if one.event.key == bad and one.id in handler.done]
        assert numbers == sorted(numbers), "in order all the same"


@scenario("delivery.a-killed-process-loses-nothing", "kept processes", level="promise")
async def killed(stage: Stage) -> None:
    """A process that consumes is killed with kill -9: all that it had not settled is handled by another."""
    if not stage.harness.adapter:
        raise NotApplicable("the harness names no entry point")
    shop = await stage.shop()
    ids = set(await shop.many(80))
    settings = {"adapter": stage.harness.adapter, "namespace": stage.namespace, "event": shop.name}
    task = json.dumps({**settings, "config": stage.settings}).encode()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ductape_conformance._consumer"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(task + b"\n")
    done: set[str] = set()
    try:
        async with asyncio.timeout(30.0):
            while len(done) < 15:
                line = (await process.stdout.readline()).decode().strip()
                assert line, "the process ended by itself"
                done.add(line)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        rest, _ = await process.communicate()
        done |= set(rest.decode().split())
    assert done <= ids
    second = await stage.shop()
    handler = second.handler(name="second")
    await second.subscribe(handler)
    await handler.until(lambda: done | set(handler.done) >= ids, 2 * stage.soon + stage.patience)
    assert len(handler.ids) == len(set(handler.ids)), "the second one handles nothing twice"
    assert len(done & set(handler.ids)) <= 64, "what it was given and had not settled, at most"
