"""Several processes on one file: nothing is lost when they are killed, and who waits is woken at once."""

from __future__ import annotations

import asyncio
import collections
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ductape.adapter import AdapterError

WORKER = Path(__file__).with_name("worker.py")


class Crew:
    """Processes that publish and consume, and what they wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "events.db"
        self.all: list[subprocess.Popen[str]] = []

    def start(self, what: str, *more: str) -> subprocess.Popen[str]:
        log = self.folder / f"{what}-{len(self.all)}.log"
        command = [sys.executable, str(WORKER), what, str(self.path), str(log), *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.all.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=10)
        return process

    def lines(self, what: str) -> list[list[str]]:
        return [line.split() for log in self.folder.glob(f"{what}-*.log") for line in log.read_text().splitlines()]

    def confirmed(self) -> set[str]:
        return {id for (id,) in self.lines("publish")}

    def handled(self) -> collections.Counter[str]:
        return collections.Counter(line[0] for line in self.lines("consume"))

    def drain(self, within: float = 30.0) -> collections.Counter[str]:
        wanted, end = self.confirmed(), time.monotonic() + within
        while not self.handled().keys() >= wanted and time.monotonic() < end:
            time.sleep(0.1)
        return self.handled()

    def end(self, process: subprocess.Popen[str], how: signal.Signals) -> tuple[int, str]:
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
        return process.returncode, errors


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    found = Crew(tmp_path)
    yield found
    for process in found.all:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nothing_is_lost_when_publishers_and_consumers_are_killed(crew: Crew) -> None:
    publisher, consumer = crew.start("publish"), crew.start("consume")
    for _ in range(3):
        time.sleep(0.4)
        crew.end(publisher, signal.SIGKILL)
        publisher = crew.start("publish")
        time.sleep(0.2)
        crew.end(consumer, signal.SIGKILL)
        consumer = crew.start("consume")
    crew.end(publisher, signal.SIGKILL)
    handled = crew.drain()
    confirmed = crew.confirmed()
    assert len(confirmed) > 100
    assert confirmed <= handled.keys(), f"{len(confirmed - handled.keys())} of {len(confirmed)} are lost"
    assert crew.end(consumer, signal.SIGTERM)[0] == 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_four_processes_publish_and_four_consume_without_an_error(crew: Crew) -> None:
    consumers = [crew.start("consume") for _ in range(4)]
    publishers = [crew.start("publish", "500") for _ in range(4)]
    for publisher in publishers:
        _, errors = publisher.communicate(timeout=90)
        assert (publisher.returncode, errors) == (0, "")
    handled = crew.drain()
    assert sum(handled.values()) == len(handled) == 2000
    for consumer in consumers:
        assert crew.end(consumer, signal.SIGTERM) == (0, "")
    last: dict[str, int] = {}
    for _, key, number, _ in sorted(crew.lines("consume"), key=lambda line: float(line[3])):
        assert int(number) > last.get(key, -1), f"{key} is out of order"
        last[key] = int(number)


async def test_who_waits_in_another_process_is_woken_at_once(world: Any) -> None:
    code = """
        import sqlite3, socket, sys, time
        db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5.0)
        [(port,)] = db.execute("SELECT port FROM ductape_listener").fetchall()
        bell = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for _ in range(10):
            time.sleep(0.05)
            db.execute("INSERT INTO ductape_publish (channel, body) VALUES ('orders', ?)", (str(time.monotonic()),))
            bell.sendto(b"1", ("127.0.0.1", port))
    """
    connection = await world.connect()
    receiver = await world.receiver(connection)
    assert list(await receiver.receive(1, 0.0)) == []
    lines = "\n".join(line.strip() if not line.startswith(" " * 12) else line[8:] for line in code.splitlines())
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", lines, str(world.path))
    took = []
    while len(took) < 10:
        for one in await receiver.receive(1, 10.0):
            took.append(time.monotonic() - float(one.body))
            await world.ack(receiver, one)
    await process.wait()
    assert sorted(took)[5] < 0.1, "by the bell, not by the look four times a second"


async def test_without_a_bell_what_others_store_is_seen_all_the_same(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    assert list(await receiver.receive(1, 0.0)) == []
    world.sql("DELETE FROM ductape_listener")
    waiting = asyncio.ensure_future(receiver.receive(1, 10.0))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await world.send(await world.connect(), "m1")
    assert world.bodies(await waiting) == ["m1"]
    assert time.monotonic() - began < 5.0


async def test_a_process_that_is_never_idle_sees_what_others_store_all_the_same(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    assert list(await receiver.receive(1, 0.0)) == []
    world.sql("DELETE FROM ductape_listener")
    waiting = asyncio.ensure_future(receiver.receive(1, 10.0))

    async def busy() -> None:
        while not waiting.done():
            await connection.check()

    others = asyncio.ensure_future(busy())
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await world.send(await world.connect(), "m1")
    assert world.bodies(await waiting) == ["m1"]
    assert time.monotonic() - began < 5.0
    await others


async def test_a_port_that_could_not_be_entered_is_entered_by_the_next_call(world: Any) -> None:
    connection = await world.connect(busy_timeout=0.1)
    receiver = await world.receiver(connection)
    other = sqlite3.connect(world.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(AdapterError, match="locked"):
        await receiver.receive(1, 0.0)
    other.execute("ROLLBACK")
    other.close()
    await receiver.receive(1, 0.0)
    assert world.sql("SELECT port FROM ductape_listener") == [(connection.bell.port,)]


async def test_ports_of_processes_that_are_gone_are_forgotten(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "m1")
    world.sql("INSERT INTO ductape_listener VALUES (1, 9, 0)")
    receiver = await world.receiver(connection)
    await receiver.receive(1, 0.0)
    [(port,)] = world.sql("SELECT port FROM ductape_listener")
    assert port == connection.bell.port
