"""Whole programs: signals, loops of one's own, threads, forks. Each runs as a process."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

HEAD = """
import asyncio, os, signal, sys, threading
import ductape.sync
from ductape import Ductape, Retry
from ductape._clock import SystemClock
from ductape_memory import MemoryAdapter, MemoryBroker

ENVS = [{"slug": "dev", "type": "MEMORY"}]
adapter = MemoryAdapter()

def say(*words):
    print(*words, flush=True)

async def declare(client):
    await client.broker.create(tag="orders", envs=ENVS)
    await client.broker.topic.create(tag="orders:new")
"""

SERVICE = (
    HEAD
    + """
client = Ductape(product="shop", env="dev", grace=GRACE)

@client.event.subscribe("orders:new", concurrency=2)
async def handler(message: int) -> None:
    say("begin", message)
    if message == 1:
        os.kill(os.getpid(), signal.SIGNAL)
    await asyncio.sleep(SECONDS)
    say("end", message)

async def main():
    await declare(client)
    publishing = asyncio.ensure_future(client.event.publish_many("orders:new", range(6)))
    await client.serve()
    await publishing
    broker = MemoryBroker.of("default")
    say("left", sorted(int(entry.body) for entry in broker.messages("orders.new", "shop.new")))

with client.override(adapter=lambda name: adapter, clock=SystemClock):
    asyncio.run(main())
"""
)


def run(program: str, **names: object) -> subprocess.CompletedProcess[str]:
    for name, value in names.items():
        program = program.replace(name, str(value))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert not done.stderr, done.stderr
    assert done.returncode == 0
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_serve_in_order_nothing_lost_and_nothing_twice(name: str) -> None:
    said = lines(run(SERVICE, GRACE=10, SIGNAL=name, SECONDS=0.5))
    ended = sorted(int(line.split()[1]) for line in said if line.startswith("end"))
    begun = sorted(int(line.split()[1]) for line in said if line.startswith("begin"))
    assert begun == ended == [0, 1]
    assert said[-1] == "left [2, 3, 4, 5]"


def test_a_second_signal_ends_the_process_at_once() -> None:
    program = SERVICE.replace(
        'say("begin", message)', 'say("begin", message); again = asyncio.get_running_loop()'
    ).replace(
        "    await asyncio.sleep(SECONDS)",
        "    again.call_later(0.6, os.kill, os.getpid(), signal.SIGNAL)\n    await asyncio.sleep(SECONDS)",
    )
    done = run(program, GRACE=25, SIGNAL="SIGTERM", SECONDS=25)
    assert done.returncode == 128 + signal.SIGTERM
    assert "end" not in done.stdout


def test_run_makes_a_loop_of_its_own_and_ends_with_a_signal() -> None:
    program = (
        HEAD
        + """
client = Ductape(product="shop", env="dev")
asyncio.run(declare(client))

@client.event.subscribe("orders:new")
async def handler(message: int) -> None:
    say("got", message)
    os.kill(os.getpid(), signal.SIGTERM)

class Publishes:
    def subscriber(self, next, site):
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(client.event.publish("orders:new", 7)))
        return next

from msgspec.structs import replace
client._settings = replace(client._settings, middleware=(Publishes(),))
with client.override(adapter=lambda name: adapter, clock=SystemClock):
    client.run()
say("done")
"""
    )
    assert lines(run(program)) == ["got 7", "done"]


SYNC = (
    HEAD
    + """
client = ductape.sync.Ductape(product="shop", env="dev")
client.broker.create(tag="orders", envs=ENVS)
client.broker.topic.create(tag="orders:new")
inner = client._client
override = inner.override(adapter=lambda name: adapter, clock=SystemClock)
override.__enter__()

def bodies():
    async def read():
        return sorted(int(entry.body) for entry in MemoryBroker.of("default").messages("orders.new"))
    return client._portal.call(read)
"""
)


def test_the_blocking_client_serves_threads_with_one_loop_and_closes_by_itself() -> None:
    program = (
        SYNC
        + """
def publish(start):
    for n in range(start, start + 25):
        assert client.event.publish("orders:new", n).id

threads = [threading.Thread(target=publish, args=(start,)) for start in range(0, 200, 25)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(client.event.publish_many("orders:new", [200, 201])) == 2
assert bodies() == list(range(202))
assert client.broker.topic.fetch("orders:new").tag == "orders:new"
assert [topic.tag for topic in client.broker.topic.fetchAll("orders")] == ["orders:new"]
loops = [thread for thread in threading.enumerate() if thread.name == "ductape"]
say(len(loops), threading.active_count())
"""
    )
    assert lines(run(program)) == ["1 2"]


def test_the_blocking_client_raises_what_the_other_raises_and_goes_on() -> None:
    program = (
        SYNC
        + """
from ductape.errors import DuctapeError
for call in (
    lambda: client.event.publish("orders:nww", 1),
    lambda: client.event.publish("orders:new", object()),
    lambda: client.broker.fetch("order"),
):
    try:
        call()
    except DuctapeError as error:
        say(error.code)
client.event.publish("orders:new", 1)
client.close()
client.close()
try:
    client.event.publish("orders:new", 1)
except DuctapeError as error:
    say(error.code)
"""
    )
    assert lines(run(program)) == ["TOPIC_NOT_FOUND", "PAYLOAD_INVALID", "BROKER_NOT_FOUND", "CLOSED"]


def test_the_blocking_client_inside_a_running_loop_says_what_to_use() -> None:
    program = (
        SYNC
        + """
from ductape.errors import StateError

async def main():
    try:
        client.event.publish("orders:new", 1)
    except StateError as error:
        say(error.code, "ductape.Ductape" in str(error))
    await asyncio.to_thread(client.event.publish, "orders:new", 2)

asyncio.run(main())
assert bodies() == [2]
"""
    )
    assert lines(run(program)) == ["WRONG_LOOP True"]


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_forked_child_begins_a_client_of_its_own() -> None:
    program = (
        SYNC
        + """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
client.event.publish("orders:new", 1)
child = os.fork()
if child == 0:
    client.event.publish("orders:new", 2)
    ids = {client.event.publish("orders:new", 3).id}
    code = 0 if bodies() == [2, 3] else 1
    client.close()
    os._exit(code)
_, status = os.waitpid(child, 0)
client.event.publish("orders:new", 4)
say(os.waitstatus_to_exitcode(status), bodies())
"""
    )
    assert lines(run(program)) == ["0 [1, 4]"]


def test_importing_ductape_loads_no_client_library_and_no_stevedore() -> None:
    program = """
import sys
import ductape, ductape.adapter, ductape.errors
wanted = ("stevedore", "opentelemetry", "redis", "aiokafka", "aio_pika", "nats", "google", "aiobotocore", "uvloop")
print([name for name in wanted if name in sys.modules])
"""
    assert lines(run(program)) == ["[]"]
