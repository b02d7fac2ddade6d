"""Logins, TLS, killed servers, cut and silent links: typed errors, bounded waits, and nothing confirmed is lost."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from ductape.adapter import AdapterError, Connection, Fault, Order, Secret, SecretUrl, Stored, Verdict
from ductape_conformance.proxy import TcpProxy, free_port
from ductape_rabbitmq import RabbitMQAdapter, RabbitMQConfig, Tls
from tests.brokers import RabbitMQ
from tests.brokers.server import Server
from tests.contract import bodies, patiently, record, settle, take

from .conftest import World, publish, site

AGE = 3.0
"""Seconds after which RabbitMQ's own records of a new queue are on disk: killed before, it forgets the queue itself."""


async def refused(config: RabbitMQConfig) -> AdapterError:
    """The error with which connecting fails, soon."""
    began = time.monotonic()
    with pytest.raises(AdapterError) as error:
        await RabbitMQAdapter().connect(config, site())
    assert time.monotonic() - began < 8.0
    return error.value


async def test_a_wrong_password_is_told_with_what_to_do_and_not_shown(world: World) -> None:
    error = await refused(RabbitMQConfig(url=SecretUrl(world.url), password=Secret("hunter2")))
    assert error.fault is Fault.CONFIG
    assert "config.password" in str(error)
    assert "hunter2" not in str(error)


async def test_a_missing_vhost_is_told_with_what_to_do(world: World) -> None:
    config = RabbitMQConfig(host=world.server.host, port=world.server.port, vhost="team/a b%")
    error = await refused(config)
    assert error.fault is Fault.CONFIG
    assert "config.vhost" in str(error)
    assert "team/a b%" in str(error)


async def test_a_wrong_host_or_port_is_transient_and_named() -> None:
    port = free_port()
    error = await refused(RabbitMQConfig(host="127.0.0.1", port=port))
    assert error.fault is Fault.TRANSIENT
    assert f"127.0.0.1:{port}" in str(error)
    error = await refused(RabbitMQConfig(host="no.such.host.invalid"))
    assert error.fault is Fault.TRANSIENT
    assert "config.host" in str(error)


async def test_a_server_that_speaks_something_else_is_not_waited_for() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 3)
        await writer.drain()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        over.set()

    over = asyncio.Event()
    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        error = await refused(RabbitMQConfig(host="127.0.0.1", port=server.sockets[0].getsockname()[1]))
        await over.wait()
    assert (error.fault, "does not speak AMQP" in str(error)) == (Fault.TRANSIENT, True)


async def test_options_that_the_client_does_not_know_how_to_read_are_refused(world: World) -> None:
    error = await refused(RabbitMQConfig(url=SecretUrl(world.url), native={"heartbeat": object()}))
    assert error.fault is Fault.CONFIG
    assert "native" in str(error)


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, Path]:
    """A CA, a certificate for this host and one for a client, made for this test."""
    ca = trustme.CA()
    made = {"host": ca.issue_cert("localhost", "127.0.0.1"), "client": ca.issue_cert("ductape@example.org")}
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for name, pair in made.items():
        pair.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        pair.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.mark.slow
async def test_a_server_that_requires_tls_and_a_certificate_is_spoken_to_with_both_and_not_otherwise(
    certificates: dict[str, Path], start_server: Callable[[Server], Server]
) -> None:
    paths = (certificates["ca.pem"], certificates["host.pem"], certificates["host.key"])
    server = await asyncio.to_thread(start_server, RabbitMQ(tls=paths, client_certificate=True))
    tls = Tls(ca=str(certificates["ca.pem"]), cert=str(certificates["client.pem"]), key=str(certificates["client.key"]))
    connection = await patiently(
        lambda: RabbitMQAdapter().connect(RabbitMQConfig(host="localhost", port=server.port, tls=tls), site())
    )
    await connection.check()
    await connection.close()
    url = f"amqps://localhost:{server.port}/?cafile={tls.ca}&certfile={tls.cert}&keyfile={tls.key}"
    connection = await RabbitMQAdapter().connect(RabbitMQConfig(url=SecretUrl(url)), site())
    await connection.check()
    await connection.close()
    stranger = Tls(ca=str(certificates["other.pem"]), cert=tls.cert, key=tls.key)
    error = await refused(RabbitMQConfig(host="localhost", port=server.port, tls=stranger))
    assert (error.fault, "certificate is refused" in str(error)) == (Fault.CONFIG, True)
    error = await refused(RabbitMQConfig(host="localhost", port=server.port, tls=Tls(ca=str(tls.ca) + "x")))
    assert (error.fault, "config.tls" in str(error)) == (Fault.CONFIG, True)
    without = await refused(RabbitMQConfig(host="localhost", port=server.port, tls=Tls(ca=tls.ca)))
    assert without.fault in (Fault.CONFIG, Fault.TRANSIENT)
    plain = await refused(RabbitMQConfig(host="localhost", port=server.port))
    assert plain.fault is Fault.TRANSIENT


async def send_as_the_kernel(world: World, connection: Connection, numbers: range) -> set[int]:
    """Sends until every record is confirmed; resends what was not or may not have been stored."""
    sender, confirmed = await world.sender(connection), set[int]()
    while left := [number for number in numbers if number not in confirmed][:200]:
        answers = await sender.send([record(number) for number in left])
        confirmed |= {number for number, answer in zip(left, answers, strict=True) if isinstance(answer, Stored)}
        faults = {answer.fault for answer in answers if isinstance(answer, AdapterError)}
        assert faults <= {Fault.TRANSIENT, Fault.AMBIGUOUS, Fault.LOST}, answers
        if faults:
            await sender.close()
            sender = await patiently(lambda: world.sender(connection))
    return confirmed


async def drain(world: World, connection: Connection, wanted: int) -> Counter[int]:
    """Receives as the kernel does, opening a receiver that was lost again."""
    seen: Counter[int] = Counter()
    receiver = await world.receiver(connection, window=300)
    end = time.monotonic() + 45
    while len(seen) < wanted and time.monotonic() < end:
        try:
            found = await receiver.receive(300, 0.2)
            seen.update(int(each.body) for each in found)
            await settle(receiver, found)
        except AdapterError:
            await receiver.close()
            receiver = await patiently(lambda: world.receiver(connection, window=300))
    return seen


@pytest.mark.kills
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_killed_server_loses_nothing_that_was_confirmed(world: World) -> None:
    connection = await world.connect()
    await connection.declare(world.event())
    await asyncio.sleep(AGE)

    async def kill() -> None:
        await asyncio.to_thread(world.server.kill)
        await asyncio.to_thread(world.server.start)

    draining = asyncio.ensure_future(drain(world, connection, 20_000))
    sending = asyncio.ensure_future(send_as_the_kernel(world, connection, range(20_000)))
    await asyncio.sleep(0.5)
    await kill()
    confirmed = await sending
    seen = await draining
    assert confirmed == set(range(20_000))
    assert set(seen) == confirmed


async def test_cuts_lose_nothing_and_what_was_answered_as_settled_does_not_come_again(world: World) -> None:
    async with TcpProxy(world.server.host, world.server.port) as proxy:
        connection = await world.through(proxy.port)
        receiver = await world.receiver(connection, window=100)
        await publish(await world.sender(connection), *(record(number) for number in range(100)))
        got = await take(receiver, 100)
        assert await settle(receiver, got[:50]) == [None] * 50
        proxy.cut()
        late = await settle(receiver, got[50:])
        assert {error.fault for error in late if error is not None} == {Fault.LOST}
        assert len([error for error in late if error is not None]) == 50
        receiver = await patiently(lambda: world.receiver(connection, window=100))
        assert bodies(await take(receiver, 50)) == bodies(got[50:])
        assert await receiver.receive(100, 0.5) == []


async def test_a_silent_server_is_noticed_and_every_call_ends(world: World) -> None:
    async with TcpProxy(world.server.host, world.server.port) as proxy:
        connection = await world.through(proxy.port, native={"heartbeat": 1})
        receiver = await world.receiver(connection)
        sender = await world.sender(connection)
        await publish(sender, record(1))
        await take(receiver, 1)
        proxy.stall()
        began = time.monotonic()
        (answer,) = await sender.send([record(2)])
        assert isinstance(answer, AdapterError)
        assert answer.fault is Fault.AMBIGUOUS
        with pytest.raises(AdapterError) as error:
            await receiver.receive(1, 10.0)
        assert error.value.fault is Fault.LOST
        assert time.monotonic() - began < 9.0
        proxy.resume()


async def test_a_server_that_keeps_quiet_for_a_moment_is_not_given_up(world: World) -> None:
    async with TcpProxy(world.server.host, world.server.port) as proxy:
        connection = await world.through(proxy.port, native={"heartbeat": 2})
        receiver = await world.receiver(connection)
        await asyncio.sleep(3.0)  # longer than a heartbeat, with nothing to say
        proxy.stall()
        await asyncio.sleep(1.0)
        proxy.resume()
        await publish(await world.sender(connection), record(1))
        assert bodies(await take(receiver, 1)) == [1]
        assert proxy.accepted == 2


async def test_the_consumer_timeout_ends_the_epoch_and_the_message_goes_to_another_member(world: World) -> None:
    connection = await world.connect()
    first = await world.receiver(connection)
    await publish(await world.sender(connection), record(1))
    (held,) = await take(first, 1)
    second = await world.receiver(connection)
    (again,) = await take(second, 1, within=world.server.consumer_timeout + 10)
    assert again.count == 2
    assert not held.epoch.alive
    (answer,) = await settle(first, [held])
    assert answer is not None
    assert answer.fault is Fault.LOST
    with pytest.raises(AdapterError, match="timed out"):
        await first.receive(1, 0.1)
    assert await settle(second, [again]) == [None]


async def test_another_member_takes_over_in_order_only_after_the_first_has_closed(world: World) -> None:
    connection = await world.connect()
    channel = world.event(order=Order.KEY)
    first, second = [await world.receiver(connection, channel, window=20) for _ in range(2)]
    await publish(await world.sender(connection, channel), *(record(number, key="k") for number in range(50)))
    got = await take(first, 20)
    assert await settle(first, got[:5]) == [None] * 5
    await first.stop()
    assert await settle(first, got[10:], Verdict.RELEASE) == [None] * 10
    assert await settle(first, got[5:7]) == [None] * 2
    assert await second.receive(100, 0.5) == []
    await first.close()
    rest: list[int] = []
    while len(rest) < 43:
        found = await take(second, 10 if len(rest) < 40 else 3)
        rest += [int(each.body) for each in found]
        await settle(second, found)
    assert rest == list(range(7, 50))


async def test_a_server_that_takes_no_messages_is_told_at_once_and_consumers_go_on(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    sender = await world.sender(connection)
    await publish(sender, record(1))
    link = connection._publish  # type: ignore[attr-defined]  # no test may fill the server's memory: say it for it
    link._wire._control(b"\x00\x0a\x00\x3c" + b"\x0dlow on memory")
    (answer,) = await sender.send([record(2)])
    assert isinstance(answer, AdapterError)
    assert (answer.fault, "low on memory" in str(answer)) == (Fault.TRANSIENT, True)
    assert await settle(receiver, await take(receiver, 1)) == [None]
    link._wire._control(b"\x00\x0a\x00\x3d")
    await publish(sender, record(2))
    assert bodies(await take(receiver, 1)) == [2]


async def test_closing_twice_and_using_what_is_closed_ends_well(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    sender = await world.sender(connection)
    for each in (receiver, sender, connection, receiver, sender, connection):
        await each.close()
    (answer,) = await sender.send([record(1)])
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.LOST
    for call in (lambda: receiver.receive(1, 0.1), connection.check, lambda: world.sender(connection)):
        with pytest.raises(AdapterError) as error:
            await call()
        assert error.value.fault is Fault.LOST
