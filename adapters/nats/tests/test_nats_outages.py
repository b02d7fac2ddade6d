"""What a killed server, a cut link and a silent one do: nothing confirmed is lost, leases outlive connections."""

import asyncio
import time
from pathlib import Path

import pytest
from nats.aio.client import Client

from ductape.adapter import AdapterError, Connection, Delivery, Fault, Receiver, Settlement, Stored, Verdict
from ductape_conformance.proxy import TcpProxy, free_port
from ductape_nats import NatsAdapter, NatsConfig
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
                await receiver.settle([Settlement(delivery, Verdict.ACK) for delivery in found])
                break
            except AdapterError as error:
                await back_off(error)


@pytest.mark.kills
async def test_a_killed_server_loses_nothing_that_was_confirmed_and_stores_nothing_twice(world: World) -> None:
    connection = await world.connect(lease=1.0)
    receiver = await world.receiver(connection, window=400)
    seen: dict[int, int] = {}
    reading = asyncio.create_task(drain(receiver, seen, 20_000))
    sending = asyncio.create_task(send_as_the_kernel(connection, list(range(20_000))))
    for _ in range(2):
        await asyncio.sleep(0.2)
        pid = world.server.pid
        world.server.kill()
        await asyncio.sleep(0.3)
        world.server.restart()
        assert world.server.pid not in (None, pid)
    assert len(await sending) == 20_000
    await reading
    assert sorted(seen) == list(range(20_000))
    stored = await patiently(lambda: connection._link.api("STREAM.INFO.orders"))  # type: ignore[attr-defined]
    assert stored["state"]["messages"] == 20_000


async def test_a_cut_connection_keeps_leases_and_hands_nothing_over_twice(world: World, nats_proxy: TcpProxy) -> None:
    cut, other = await world.through(nats_proxy.port, lease=1.5), await world.connect(lease=1.5)
    receiver = await world.receiver(cut)
    await publish(other, *map(record, range(20)))
    held = await take(receiver, 20)
    second = await world.receiver(other)
    for _ in range(3):
        assert await patiently(lambda: receiver.receive(10, 0.1)) == []
        waiting = asyncio.ensure_future(receiver.receive(10, 5.0))
        await asyncio.sleep(0.1)
        nats_proxy.cut()
        with pytest.raises(AdapterError) as caught:
            await waiting
        assert caught.value.fault is Fault.TRANSIENT
        assert receiver.epoch.alive  # type: ignore[attr-defined]
        assert await patiently(lambda: receiver.extend(held)) == [None] * 20
    assert await take(second, 1, 1.0) == []
    assert await patiently(lambda: settle(receiver, held)) == [None] * 20
    assert await take(second, 1, 2.0) == []


async def test_what_was_in_a_lost_answer_is_handed_over_again(world: World, nats_proxy: TcpProxy) -> None:
    connection, other = await world.through(nats_proxy.port, lease=1.0), await world.connect(lease=1.0)
    receiver = await world.receiver(connection)
    assert await receiver.receive(10, 0.3) == []
    nats_proxy.half_open()
    await publish(other, *map(record, range(5)))
    while (await world.consumer())["num_ack_pending"] == 0:
        await asyncio.sleep(0.01)
    nats_proxy.cut()
    nats_proxy.resume()
    found: list[Delivery] = []

    async def some() -> None:
        while len(found) < 5:
            found.extend(await receiver.receive(10, 0.5))

    await patiently(some)
    assert bodies(found) == list(range(5))
    assert await settle(receiver, found) == [None] * 5


async def test_what_was_not_answered_when_the_connection_broke_is_ambiguous(world: World, nats_proxy: TcpProxy) -> None:
    connection = await world.through(nats_proxy.port)
    await connection.declare(event())
    sender = await connection.sender(event())
    await sender.send([record(-1)])
    nats_proxy.half_open()
    sending = asyncio.create_task(sender.send([record(1)]))
    await asyncio.sleep(0.2)
    nats_proxy.cut()
    nats_proxy.resume()
    [answer] = await sending
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.AMBIGUOUS
    [again] = await sender.send([record(1)])
    assert isinstance(again, Stored)
    assert again.duplicate


async def test_a_cancelled_flush_of_the_native_client_makes_nothing_deaf(world: World, nats_proxy: TcpProxy) -> None:
    connection = await world.through(nats_proxy.port)
    receiver = await world.receiver(connection)
    nats_proxy.stall()
    flushing = asyncio.ensure_future(connection.unwrap(Client).flush())
    await asyncio.sleep(0.1)
    flushing.cancel()
    nats_proxy.resume()
    await asyncio.sleep(0.1)
    await publish(connection, record(1))
    assert bodies(await take(receiver, 1)) == [1]
    await connection.check()


async def test_calls_end_while_the_server_is_silent(world: World, nats_proxy: TcpProxy) -> None:
    connection = await world.through(nats_proxy.port, lease=3.0)
    receiver = await world.receiver(connection)
    await publish(connection, record(1))
    held = await take(receiver, 1)
    nats_proxy.stall()
    began = time.monotonic()
    with pytest.raises(AdapterError) as caught:
        await settle(receiver, held)
    assert caught.value.fault is Fault.TRANSIENT
    assert time.monotonic() - began < 3
    with pytest.raises(AdapterError) as caught:
        await connection.check()
    assert caught.value.fault is Fault.TRANSIENT
    began = time.monotonic()
    await receiver.stop()
    await receiver.close()
    assert time.monotonic() - began < 5
    began = time.monotonic()
    await connection.close()
    assert time.monotonic() - began < 5


@pytest.mark.kills
async def test_a_silent_server_is_noticed_and_the_next_connection_works(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ductape_nats._login.ALIVE", 0.3)
    connection = await world.connect()
    await connection.declare(event())
    sender = await connection.sender(event())
    first = connection.unwrap(Client)
    world.server.freeze()
    while Path(f"/proc/{world.server.pid}/stat").read_text().rsplit(") ", 1)[1][0] != "T":
        await asyncio.sleep(0.01)
    sending = asyncio.ensure_future(sender.send([record(1)]))
    try:
        [answer] = await sending
    finally:
        world.server.thaw()
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.AMBIGUOUS
    assert isinstance((await patiently(lambda: sender.send([record(1)])))[0], Stored)
    assert connection.unwrap(Client) is not first


async def test_a_member_of_a_dead_process_is_replaced_after_its_lease(world: World, nats_proxy: TcpProxy) -> None:
    dying, other = await world.through(nats_proxy.port, lease=0.5), await world.connect(lease=0.5)
    receiver = await world.receiver(dying)
    await publish(other, *map(record, range(10)))
    await take(receiver, 10)
    await nats_proxy.refuse()
    nats_proxy.cut()
    taken = await take(await world.receiver(other), 10)
    assert bodies(taken) == list(range(10))
    assert {delivery.count for delivery in taken} == {2}
    await nats_proxy.accept()


@pytest.mark.kills
async def test_acknowledgements_of_what_the_server_forgot_that_it_delivered_are_answered(world: World) -> None:
    connection = await world.connect(lease=1.0)
    receiver = await world.receiver(connection)
    await publish(connection, *map(record, range(50)))
    held = await take(receiver, 50)
    world.server.kill()
    world.server.restart()
    began = time.monotonic()
    assert await patiently(lambda: settle(receiver, held)) == [None] * 50
    assert time.monotonic() - began < 5


async def test_a_delayed_failure_waits_out_a_member_that_is_gone(world: World) -> None:
    connection = await world.connect(lease=0.5)
    receiver = await world.receiver(connection)
    await publish(connection, record(1))
    began = time.monotonic()
    await settle(receiver, await take(receiver, 1), Verdict.RETRY, 1.5)
    await receiver.close()
    [delivery] = await take(await world.receiver(connection), 1)
    assert time.monotonic() - began >= 1.5
    assert delivery.count == 2


async def test_a_server_that_is_away_is_transient_and_named() -> None:
    port = free_port()
    with pytest.raises(AdapterError, match=f"127.0.0.1:{port}") as caught:
        await NatsAdapter().connect(NatsConfig(servers=f"nats://u:hunter2@127.0.0.1:{port}"), site())
    assert caught.value.fault is Fault.TRANSIENT
    assert "hunter2" not in str(caught.value) + repr(caught.value.__cause__)


async def test_the_next_server_is_tried_where_one_is_away(world: World) -> None:
    connection = await world.connect(url=f"nats://127.0.0.1:{free_port()},{world.url}")
    await connection.check()


async def test_no_connection_stays_open_after_close(world: World, nats_proxy: TcpProxy) -> None:
    connection = await world.through(nats_proxy.port)
    receiver = await world.receiver(connection)
    await publish(connection, record(1))
    await settle(receiver, await take(receiver, 1))
    await receiver.close()
    await connection.close()
    await connection.close()
    while nats_proxy.links:
        await asyncio.sleep(0.01)
