"""Around the bench: what is imitated, what is refused, what is left behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from ductape import Ductape, Reject
from ductape.adapter import Capabilities, Groups, Purpose
from ductape.errors import AdapterNotUsable, CapabilityError, CatalogError, ConfigError, StateError
from ductape_memory import LOG, MemoryAdapter
from ductape_testing import Bench, VirtualClock, bench
from ductape_testing.plugin import ductape_bench  # noqa: F401  # the fixture, also where the plugin is not installed

EVENT = "order-events:new-orders"


class LogAdapter(MemoryAdapter):
    """Stands for an installed adapter of a log."""

    capabilities = LOG


async def shop(topic: Literal["none", "key", "total"] = "none", **options: Any) -> SimpleNamespace:
    ductape = Ductape(product="shop", env="dev")
    app = SimpleNamespace(ductape=ductape, seen=[])
    await ductape.broker.create(name="Orders", tag="order-events", envs=[{"slug": "dev", "type": "NATS", "config": {}}])
    await ductape.broker.topic.create(name="New", message_broker_tag="order-events", tag=EVENT, order=topic)

    async def bill(order: int) -> None:
        app.seen.append(order)

    app.bill = bill
    ductape.event.subscribe(EVENT, group="billing", **options)(bill)
    return app


async def test_one_client_on_two_benches_in_a_row() -> None:
    app = await shop()
    for number in range(2):
        async with bench(app.ductape) as b:
            b.fail(app.bill, Reject("no"))
            await app.ductape.event.publish(EVENT, number)
            await b.settled()
            assert [letter.message for letter in b.dead(EVENT)] == [number]
            assert b.elapsed == 0.0
        assert [declaration.handler for declaration in app.ductape._declarations] == [app.bill]
        assert "not open" in repr(app.ductape)
    assert app.seen == []


async def test_what_was_recorded_can_be_read_afterwards() -> None:
    app = await shop()
    async with bench(app.ductape) as b:
        b.fail(app.bill, Reject("no"))
        await app.ductape.event.publish(EVENT, 1)
        await b.settled()
    assert (len(b.published(EVENT)), len(b.handled(app.bill)), len(b.dead(EVENT, group="billing"))) == (1, 1, 1)
    assert "not open" in repr(b)


@pytest.mark.parametrize("imitate", [None, "queue", "log", "stream"])
async def test_nothing_is_left_behind(imitate: str | None) -> None:
    app = await shop(order=None, timeout=5)
    before = asyncio.all_tasks()
    async with bench(app.ductape, imitate=imitate) as b:
        b.fail(app.bill, ValueError, times=None)
        for number in range(20):
            await app.ductape.event.publish(EVENT, number)
        await b.advance(1.1)
    assert asyncio.all_tasks() == before


async def test_leaving_with_a_handler_that_hangs_takes_a_moment() -> None:
    app = await shop()
    ductape: Ductape = app.ductape

    @ductape.event.subscribe(EVENT, group="stuck")
    async def stuck(order: int) -> None:
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    async with bench(app.ductape), asyncio.timeout(5):
        await app.ductape.event.publish(EVENT, 1)
    assert asyncio.all_tasks() == before


async def test_an_error_of_the_test_passes_through() -> None:
    app = await shop()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with bench(app.ductape):
            await app.ductape.event.publish(EVENT, 1)
            raise ZeroDivisionError
    assert "not open" in repr(app.ductape)


async def test_a_client_that_does_not_open_is_put_back() -> None:
    app = await shop("key")
    with pytest.raises(CapabilityError):
        async with bench(app.ductape, imitate="stream"):
            raise AssertionError("it opened")
    async with bench(app.ductape) as b:
        await app.ductape.event.publish(EVENT, 1, key="a")
        await b.settled()
    assert app.seen == [1]


async def test_without_imitation_nothing_is_refused() -> None:
    app = await shop("total", start="earliest", timeout=3600)
    async with bench(app.ductape):
        pass


async def test_capabilities_may_be_given_and_lossy_channels_forget() -> None:
    app = await shop()
    ductape: Ductape = app.ductape
    ductape._declarations.clear()

    @ductape.event.subscribe(EVENT)
    async def bill(order: int) -> None:
        raise ValueError

    for imitate in "lossy", Capabilities(groups=Groups.NONE):
        async with bench(app.ductape, imitate=imitate) as b:
            await app.ductape.event.publish(EVENT, 1)
            await b.settled()
            assert b.dead(EVENT) == []


async def test_imitating_an_installed_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    app = await shop()
    entry = EntryPoint("kafka", f"{__name__}:LogAdapter", "ductape.adapters")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or SimpleNamespace(LogAdapter=LogAdapter))
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: (entry,))
    async with bench(app.ductape, imitate="Kafka") as b:
        assert b.broker("order-events").state.stores["order-events.new-orders", Purpose.EVENTS, ""].kind == "log"
        await app.ductape.event.publish(EVENT, 1)
        await b.settled()


async def test_imitating_an_adapter_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    app = await shop()
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    with pytest.raises(AdapterNotUsable, match=r"imitate='kafka'.*pip install ductape-kafka"):
        bench(app.ductape, imitate="kafka")


async def test_wrong_use() -> None:
    app = await shop()

    async def other(order: int) -> None: ...

    with pytest.raises(ConfigError, match="give it the application's Ductape"):
        bench(app)  # type: ignore[arg-type]
    for imitate in 3, "":
        with pytest.raises(ConfigError, match="imitate="):
            bench(app.ductape, imitate=imitate)  # type: ignore[arg-type]
    b = bench(app.ductape)
    with pytest.raises(StateError, match="not open"):
        await b.settled()
    async with b:
        with pytest.raises(ConfigError, match=r"other.* is not subscribed.*bill"):
            b.fail(other, ValueError)
        with pytest.raises(ConfigError, match="not subscribed"):
            b.handled(other)
        for times in 0, True, "2":
            with pytest.raises(ConfigError, match="times="):
                b.fail(app.bill, ValueError, times=times)  # type: ignore[arg-type]
        for error in UnicodeDecodeError, "no", KeyboardInterrupt, int:
            with pytest.raises(ConfigError, match=r"bench\.fail"):
                b.fail(app.bill, error)  # type: ignore[arg-type]
        for look in b.published, b.handled, b.dead:
            with pytest.raises(CatalogError, match="Did you mean 'order-events:new-orders'"):
                look("order-events:new-order")
        with pytest.raises(ConfigError, match="Did you mean 'billing'"):
            b.dead(EVENT, group="biling")
        with pytest.raises(ConfigError, match="Did you mean 'billing'"):
            b.handled(EVENT, group="biling")
        with pytest.raises(CatalogError, match="Did you mean 'order-events'"):
            b.broker("order-event")
        with pytest.raises(ValueError, match="forward"):
            await b.advance(-1)
        with pytest.raises(StateError, match="ALREADY_OPEN"):
            async with bench(app.ductape):
                pass
        assert repr(b) == f"<Bench of {app.ductape!r} at 0 s>"
        await app.ductape.event.publish(EVENT, 1)  # the second bench disturbed nothing
        await b.settled()
    for call in b.settled(), b.advance(1):
        with pytest.raises(StateError, match="not open"):
            await call
    with pytest.raises(StateError, match="make another"):
        async with b:
            pass


async def test_a_failure_ends_when_it_is_told_to_and_errors_may_be_made() -> None:
    app = await shop()
    async with bench(app.ductape) as b:
        outage = b.fail(app.bill, lambda: ValueError(len(b.handled(app.bill))), times=None)
        await app.ductape.event.publish(EVENT, 1)
        await b.advance(2)
        assert (outage.count, "every call" in repr(outage)) == (2, True)
        outage.end()
        await b.settled()
        assert [str(call.error) for call in b.handled(app.bill)] == ["1", "2", "None"]


async def test_the_fixture(ductape_bench: Callable[..., Bench]) -> None:  # noqa: F811
    app = await shop()
    async with ductape_bench(app.ductape) as b:
        await app.ductape.event.publish(EVENT, 1)
        await b.settled()
    assert app.seen == [1]


def test_the_plugin_loads_nothing_until_it_is_used() -> None:
    code = "import sys, ductape_testing.plugin; print(*(m for m in sys.modules if m.partition('.')[0] in names))"
    code = f"names = ('ductape', 'ductape_memory', 'msgspec', 'stevedore'); {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_is_there() -> None:
    import ductape_testing

    assert all(getattr(ductape_testing, name) for name in ductape_testing.__all__)
    assert set(ductape_testing.__all__) <= set(dir(ductape_testing))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ductape_testing.nothing


async def test_the_clock() -> None:
    clock = VirtualClock()
    rang: list[str] = []
    clock.call_later(2.0, rang.append, "two")
    clock.call_later(1.0, rang.append, "one")
    clock.call_later(1.0, rang.append, "also one")
    clock.call_later(0.0, rang.append, "now")
    clock.call_later(1.5, rang.append, "never").cancel()
    sleeper = asyncio.create_task(clock.sleep(1.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert rang == ["now"]
    began = clock.time()
    await clock.advance(1.0)
    assert rang == ["now", "one", "also one"]
    assert sleeper.done()
    assert clock.time() - began == 1.0
    await clock.advance(5.0)
    assert (rang[-1], clock.now(), clock.due, clock.jump()) == ("two", 6.0, None, False)
    assert repr(clock) == "<VirtualClock at 6 s>"
