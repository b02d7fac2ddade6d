"""The servers and the proxy that other tests stand on."""

import asyncio
import os
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ductape_conformance.proxy import TcpProxy
from tests.brokers import NotOurs, Redis, Server

ROOT = Path(__file__).parents[1]
RST_ON_CLOSE = struct.pack("ii", 1, 0)
"""On, at once: the connection ends with RST instead of FIN."""


def ask(port: int, *commands: str) -> list[str]:
    """Sends inline commands to a Redis server and returns the first lines of its answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as link, link.makefile("rwb") as stream:
        answers = []
        for command in commands:
            stream.write(command.encode() + b"\r\n")
            stream.flush()
            answer = stream.readline().decode().strip()
            if answer.startswith("$") and answer != "$-1":
                answer = stream.readline().decode().strip()
            answers.append(answer)
        return answers


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().split()[2] == "Z"


def test_a_server_comes_up_on_loopback_with_its_own_data(redis_server: Server) -> None:
    assert redis_server.url.startswith(f"redis://{redis_server.host}:{redis_server.port}")
    assert ask(redis_server.port, "PING") == ["+PONG"]
    assert redis_server.given or (redis_server.host == "127.0.0.1" and redis_server.folder.is_dir())


@pytest.mark.kills
def test_a_restart_after_kill_9_keeps_port_and_data(redis_server: Server) -> None:
    port, pid = redis_server.port, redis_server.pid
    assert ask(port, "SET kept yes") == ["+OK"]
    redis_server.kill()
    assert not redis_server.alive
    with pytest.raises(ConnectionRefusedError):
        ask(port, "PING")
    redis_server.restart()
    assert redis_server.port == port
    assert redis_server.pid != pid
    assert ask(port, "GET kept", "DEL kept") == ["yes", ":1"]


@pytest.mark.kills
def test_a_server_left_dead_by_one_test(redis_server: Server) -> None:
    redis_server.kill()


def test_is_up_again_in_the_next(redis_server: Server) -> None:
    assert ask(redis_server.port, "PING") == ["+PONG"]


@pytest.mark.kills
def test_a_frozen_server_keeps_connections_and_answers_later(redis_server: Server) -> None:
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=0.2) as link:
        redis_server.freeze()
        link.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            link.recv(64)
        redis_server.thaw()
        link.settimeout(5)
        assert link.recv(64) == b"+PONG\r\n"


def test_stop_removes_process_and_data(
    start_server: Callable[[Server], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DUCTAPE_TEST_REDIS", raising=False)
    server = start_server(Redis(appendfsync="everysec"))
    assert "everysec" in server.command()
    folder, pid = server.folder, server.pid
    assert pid is not None
    server.stop()
    server.stop()
    assert not folder.exists()
    assert gone(pid)


def test_a_given_address_is_used_and_not_killed(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUCTAPE_TEST_REDIS", redis_server.url)
    given = Redis()
    given.start()
    assert given.url == redis_server.url
    for refused in (given.kill, given.restart, given.freeze):
        with pytest.raises(NotOurs, match="DUCTAPE_TEST_REDIS"):
            refused()
    given.stop()
    assert ask(redis_server.port, "PING") == ["+PONG"]


def test_a_server_ends_with_the_process_that_started_it(redis_server: Server) -> None:
    """Also when that one is killed and runs no exit handler."""
    code = """
        import time
        from tests.brokers import Redis
        server = Redis()
        server.start()
        print(server.pid, server.folder, flush=True)
        time.sleep(60)
    """
    starter = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=_without_address(),
    )
    assert starter.stdout is not None
    pid, folder = starter.stdout.readline().split()
    starter.kill()
    starter.communicate()
    deadline = time.monotonic() + 10
    while not gone(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gone(int(pid))
    subprocess.run(["rm", "-r", "--", folder], check=True)


def test_the_brokers_session_prints_addresses_until_interrupted(redis_server: Server) -> None:
    session = subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.brokers", "redis"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=_without_address(),
    )
    assert session.stdout is not None
    line = session.stdout.readline()
    assert line.startswith("export DUCTAPE_TEST_REDIS=redis://127.0.0.1:")
    port = int(line.split("/0")[0].rpartition(":")[2])
    assert ask(port, "PING") == ["+PONG"]
    session.terminate()
    session.communicate(timeout=10)
    assert session.returncode == 0
    with pytest.raises(ConnectionRefusedError):
        ask(port, "PING")


def _without_address() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "DUCTAPE_TEST_REDIS"}


# ---------------------------------------------------------------- the proxy, in front of an echo server


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with TcpProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as running:
        yield running
    server.close()


class Client:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, proxy: TcpProxy) -> "Client":
        return cls(*await asyncio.open_connection(proxy.host, proxy.port))

    async def echo(self, text: bytes, seconds: float = 5.0) -> bytes:
        self.writer.write(text)
        return await asyncio.wait_for(self.reader.readexactly(len(text)), seconds)

    def close(self) -> None:
        self.writer.transport.abort()


async def test_it_forwards_and_passes_the_end_on(proxy: TcpProxy) -> None:
    client = await Client.connect(proxy)
    assert await client.echo(b"hello") == b"hello"
    assert len(proxy.links) == proxy.accepted == 1
    client.writer.write_eof()
    assert await client.reader.read() == b""
    client.close()
    await asyncio.sleep(0.05)
    assert proxy.links == []


async def test_cut_resets_open_connections_and_takes_new_ones(proxy: TcpProxy) -> None:
    client = await Client.connect(proxy)
    await client.echo(b"x")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(client.reader.read(1), 5)
    client.close()
    again = await Client.connect(proxy)
    assert await again.echo(b"back") == b"back"
    again.close()


async def test_stall_holds_and_resume_delivers(proxy: TcpProxy) -> None:
    client = await Client.connect(proxy)
    await client.echo(b"x")
    proxy.stall()
    with pytest.raises(TimeoutError):
        await client.echo(b"late", 0.1)
    proxy.resume()
    assert await asyncio.wait_for(client.reader.readexactly(4), 5) == b"late"
    client.close()


async def test_one_link_stalls_alone(proxy: TcpProxy) -> None:
    first, second = await Client.connect(proxy), await Client.connect(proxy)
    await first.echo(b"x")
    await second.echo(b"x")
    proxy.links[0].stall()
    assert await second.echo(b"free") == b"free"
    with pytest.raises(TimeoutError):
        await first.echo(b"held", 0.1)
    first.close()
    second.close()


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_half_open_swallows_one_direction(proxy: TcpProxy, direction: str) -> None:
    client = await Client.connect(proxy)
    await client.echo(b"x")
    proxy.half_open("to_server" if direction == "to_server" else "to_client")
    with pytest.raises(TimeoutError):
        await client.echo(b"lost", 0.1)
    proxy.resume()
    assert await client.echo(b"new") == b"new"
    client.close()


async def test_slow_delays(proxy: TcpProxy) -> None:
    client = await Client.connect(proxy)
    proxy.slow(0.1)
    begin = time.monotonic()
    await client.echo(b"x")
    assert time.monotonic() - begin >= 0.19
    client.close()


async def test_refuse_is_a_refused_connection_and_accept_takes_the_same_port(proxy: TcpProxy) -> None:
    client = await Client.connect(proxy)
    await client.echo(b"x")
    port = proxy.port
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await Client.connect(proxy)
    assert await client.echo(b"still open") == b"still open"
    await proxy.accept()
    assert proxy.port == port
    again = await Client.connect(proxy)
    assert await again.echo(b"y") == b"y"
    client.close()
    again.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_answer_that_comes_right_after_the_client_s_reset_leaves_nothing_open(loop: str) -> None:
    async def play() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with TcpProxy("127.0.0.1", listener.getsockname()[1]) as proxy:
                client = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", proxy.port), 5)
                server, _ = await asyncio.to_thread(listener.accept)
                server.settimeout(5)
                client.sendall(b"x")
                assert await asyncio.to_thread(server.recv, 1) == b"x"
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
                client.close()
                server.sendall(b"an answer")  # the proxy hears of both at once
                try:
                    assert await asyncio.to_thread(server.recv, 1) == b""
                except ConnectionResetError:
                    pass  # says the same as the end of the stream
                server.close()

    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(play())


@pytest.mark.kills
async def test_a_dead_server_shows_through_the_proxy(redis_server: Server, redis_proxy: TcpProxy) -> None:
    client = await Client.connect(redis_proxy)
    client.writer.write(b"PING\r\n")
    assert await client.reader.readline() == b"+PONG\r\n"
    redis_server.kill()
    try:
        assert await asyncio.wait_for(client.reader.read(64), 5) == b""
    except ConnectionResetError:
        pass  # says the same as the end of the stream
    await asyncio.to_thread(redis_server.restart)
    again = await Client.connect(redis_proxy)
    again.writer.write(b"PING\r\n")
    assert await again.reader.readline() == b"+PONG\r\n"
    client.close()
    again.close()
