"""What a killed server, a cut link and a refused login do: nothing confirmed is lost, leases outlive connections."""

import asyncio
import time

import pytest

from ductape.adapter import (
    AdapterError,
    Connection,
    Delivery,
    Fault,
    Receiver,
    Secret,
    SecretUrl,
    Settlement,
    Stored,
    Verdict,
)
from ductape_conformance.proxy import TcpProxy
from ductape_redis import RedisAdapter, RedisConfig, Tls
from tests.brokers.server import free_port
from tests.contract import bodies, patiently, record, settle, take

from .conftest import World, event, publish, site

pytestmark = pytest.mark.broker


async def back_off(error: AdapterError) -> None:
    if error.fault is not Fault.TRANSIENT:
        raise error
    await asyncio.sleep(0.02)


async def send_as_the_kernel(connection: Connection, numbers: list[int]) -> set[int]:
    """Sends until every record is confirmed; resends what was not or may not have been stored."""
    sender = await connection.sender(event())
    confirmed: set[int] = set()
    while left := [number for number in numbers if number not in confirmed][:200]:
        try:
            answers = await sender.send([record(number) for number in left])
        except AdapterError as error:
            await back_off(error)
            continue
        for number, answer in zip(left, answers, strict=True):
            if isinstance(answer, Stored):
                confirmed.add(number)
            else:
                assert answer.fault in (Fault.TRANSIENT, Fault.AMBIGUOUS, Fault.LOST), answer
        if any(isinstance(answer, AdapterError) and answer.fault is Fault.LOST for answer in answers):
            await patiently(lambda: connection.declare(event()))
    return confirmed


async def drain(receiver: Receiver, seen: dict[int, int], enough: int) -> None:
    end = time.monotonic() + 30
    while len(seen) < enough and time.monotonic() < end:
        try:
            found = await receiver.receive(200, 0.2)
        except AdapterError as error:
            await back_off(error)
            continue
        for delivery in found:
            seen[int(delivery.body)] = seen.get(int(delivery.body), 0) + 1
        while found:
            try:
                await receiver.settle([_ack(delivery) for delivery in found])
                break
            except AdapterError as error:
                await back_off(error)


def _ack(delivery: Delivery) -> Settlement:
    return Settlement(delivery, Verdict.ACK)


async def test_a_killed_server_loses_nothing_that_was_confirmed(world: World) -> None:
    connection = await world.connect(lease=1.0)
    receiver = await world.receiver(connection, window=400)
    seen: dict[int, int] = {}
    reading = asyncio.create_task(drain(receiver, seen, 20_000))
    sending = asyncio.create_task(send_as_the_kernel(connection, list(range(20_000))))
    for _ in range(2):
        await asyncio.sleep(0.2)
        world.server.kill()
        await asyncio.sleep(0.3)
        world.server.restart()
    assert len(await sending) == 20_000
    await reading
    assert sorted(seen) == list(range(20_000))


async def test_a_cut_connection_keeps_leases_and_hands_nothing_over_twice(world: World, redis_proxy: TcpProxy) -> None:
    cut, other = await world.through(redis_proxy.port, lease=1.0), await world.connect(lease=1.0)
    receiver = await world.receiver(cut)
    await publish(other, *map(record, range(20)))
    held = await take(receiver, 20)
    second = await world.receiver(other)
    for _ in range(3):
        assert await patiently(lambda: receiver.receive(10, 0.1)) == []
        redis_proxy.cut()
        with pytest.raises(AdapterError) as caught:
            await receiver.receive(10, 3.0)
        assert caught.value.fault is Fault.TRANSIENT
        assert receiver.epoch.alive  # type: ignore[attr-defined]
        assert await patiently(lambda: receiver.extend(held)) == [None] * 20
    assert await take(second, 1, 1.2) == []
    assert await patiently(lambda: settle(receiver, held)) == [None] * 20
    assert await take(second, 1, 1.2) == []


async def test_what_was_in_a_lost_answer_is_handed_over_again(world: World, redis_proxy: TcpProxy) -> None:
    connection, other = await world.through(redis_proxy.port), await world.connect()
    receiver = await world.receiver(connection)
    assert await receiver.receive(10, 0.3) == []
    redis_proxy.half_open()
    await publish(other, *map(record, range(5)))
    while (await world.raw.xpending("orders", "billing"))["pending"] == 0:
        await asyncio.sleep(0.01)
    redis_proxy.cut()
    redis_proxy.resume()
    found: list[Delivery] = []

    async def some() -> None:
        while len(found) < 5:
            found.extend(await receiver.receive(10, 0.5))

    await patiently(some)
    assert bodies(found) == list(range(5))
    assert await settle(receiver, found) == [None] * 5


async def test_what_arrives_for_a_closed_receiver_goes_to_the_next(world: World, redis_proxy: TcpProxy) -> None:
    connection, other = await world.through(redis_proxy.port), await world.connect()
    first, second = await world.receiver(connection), await world.receiver(connection)
    assert await first.receive(10, 0.3) == []
    redis_proxy.stall()
    await publish(other, *map(record, range(5)))
    while (await world.raw.xpending("orders", "billing"))["pending"] == 0:
        await asyncio.sleep(0.01)
    await first.close()
    redis_proxy.resume()
    assert bodies(await take(second, 5)) == list(range(5))


async def test_answers_that_were_read_before_a_break_count(world: World, redis_proxy: TcpProxy) -> None:
    connection = await world.through(redis_proxy.port)
    await connection.declare(event())
    sender = await connection.sender(event())
    await sender.send([record(-1)])
    redis_proxy.half_open()
    sending = asyncio.create_task(sender.send([record(1)]))
    await asyncio.sleep(0.2)
    redis_proxy.cut()
    redis_proxy.resume()
    [answer] = await sending
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.AMBIGUOUS
    assert isinstance((await sender.send([record(2)]))[0], Stored)
    assert await world.raw.xlen("orders") == 3


async def test_calls_end_while_the_server_is_frozen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ductape_redis._hub.BLOCK", 0.5)
    monkeypatch.setattr("ductape_redis._hub.LATE", 0.3)
    connection = await world.connect(lease=2.0)
    receiver = await world.receiver(connection)
    await publish(connection, record(1))
    held = await take(receiver, 1)
    world.server.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(AdapterError) as caught:
            await settle(receiver, held)
        assert caught.value.fault is Fault.TRANSIENT
        assert time.monotonic() - began < 2
        began = time.monotonic()
        await receiver.stop()
        await receiver.close()
        await connection.close()
        assert time.monotonic() - began < 5
    finally:
        world.server.thaw()


async def test_a_member_of_a_dead_process_is_replaced_after_its_lease(world: World, redis_proxy: TcpProxy) -> None:
    dying, other = await world.through(redis_proxy.port, lease=0.5), await world.connect(lease=0.5)
    receiver = await world.receiver(dying)
    await publish(other, *map(record, range(10)))
    await take(receiver, 10)
    await redis_proxy.refuse()
    redis_proxy.cut()
    claimed = await take(await world.receiver(other), 10)
    assert bodies(claimed) == list(range(10))
    assert {delivery.count for delivery in claimed} == {2}
    await redis_proxy.accept()


async def test_a_server_that_is_away_is_transient() -> None:
    config = RedisConfig(port=free_port(), host="127.0.0.1")
    with pytest.raises(AdapterError) as caught:
        await RedisAdapter().connect(config, site())
    assert caught.value.fault is Fault.TRANSIENT


async def test_a_refused_login_is_a_matter_of_config_and_shows_no_secret(world: World) -> None:
    await world.acl("SETUSER", "app", "on", ">right", "~*", "&*", "+@all")
    for password in ("hunter2", "right"):
        url = world.url.replace("redis://", f"redis://app:{password}@")
        connecting = RedisAdapter().connect(RedisConfig(url=SecretUrl(url)), site())
        if password == "right":
            await (await connecting).close()
        else:
            with pytest.raises(AdapterError) as caught:
                await connecting
            assert caught.value.fault is Fault.CONFIG
            assert "hunter2" not in str(caught.value) + repr(caught.value.__cause__)
    await world.acl("DELUSER", "app")


async def test_a_password_that_nobody_asked_for_and_a_missing_database_are_matters_of_config(world: World) -> None:
    parts = world.url.removeprefix("redis://").partition(":")
    port = int(parts[2].partition("/")[0])
    for config in (
        RedisConfig(host=parts[0], port=port, username="nobody", password=Secret("hunter2")),
        RedisConfig(host=parts[0], port=port, password=Secret("hunter2")),
        RedisConfig(host=parts[0], port=port, db=999),
        RedisConfig(host=parts[0], port=port, native={"no_such_option": 1}),
        RedisConfig(host=parts[0], port=port, tls=Tls(ca="/no/such/file.pem")),
    ):
        with pytest.raises(AdapterError) as caught:
            await (await RedisAdapter().connect(config, site())).close()
        assert caught.value.fault is Fault.CONFIG, config
        assert "hunter2" not in str(caught.value)


async def test_missing_rights_are_a_matter_of_config(world: World) -> None:
    await world.acl("SETUSER", "reader", "on", "nopass", "~*", "&*", "+@all", "-xadd")
    connection = await world.connect(url=world.url.replace("redis://", "redis://reader:x@"))
    await connection.declare(event())
    [answer] = await (await connection.sender(event())).send([record(1)])
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.CONFIG
    await world.acl("DELUSER", "reader")


async def test_no_connection_stays_open_after_close(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await publish(connection, record(1))
    await settle(receiver, await take(receiver, 1))
    await receiver.close()
    await connection.close()
    await connection.close()
    await asyncio.sleep(0.1)
    assert not [one for one in await world.raw.client_list() if one["name"].startswith("shop-")]
