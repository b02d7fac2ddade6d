"""The main job on the embedded broker: publish, subscribe, a retry, a dead letter, its replay, then another provider.

Where ductape-sqlite is installed, two processes follow that share a file.

    nox -s demo                 or, where ductape-core and ductape-memory are installed:  python examples/demo.py

No server is needed. Two imitations of the memory adapter stand for two providers: a stream with consumer groups (as
Redis has it) in `dev`, a partitioned log (as Kafka has it) in `prd`. With an address in DUCTAPE_DEMO_REDIS, and
ductape-redis installed, `prd` is that Redis.
"""

import asyncio
import importlib.util
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from ductape import Ductape, DuctapeError, Event, Retry

REDIS = os.environ.get("DUCTAPE_DEMO_REDIS", "")
EVENT = "order-events:new-orders"


class Order(msgspec.Struct):
    order_id: str
    customer: str
    total: float


ORDERS = [
    Order("A-1", "ada", 19.90),
    Order("A-2", "bob", 250.00),
    Order("A-3", "eve", 99.99),
    Order("A-4", "ada", 5.00),
]


# ---------------------------------------------------------------- the service; nothing in it knows a provider


class Shop:
    """An application: one broker, one topic, two groups that both see every order."""

    def __init__(self, env: str, say: "Teller") -> None:
        self.say, self.customers, self.busy = say, {"ada", "bob"}, True
        self.paid = asyncio.Queue[str]()
        self.ductape = Ductape(product="shop", env=env)

    async def declare(self) -> None:
        await self.ductape.broker.create({
            "name": "Order Events", "tag": "order-events",
            "envs": [
                {"slug": "dev", "type": "MEMORY", "config": {"imitate": "stream"}},
                prd(),
            ],
        })  # fmt: skip
        await self.ductape.broker.topic.create(tag=EVENT, type=Order, groups=["billing", "stock"])
        subscribe = self.ductape.event.subscribe
        await subscribe(EVENT, callback=self.bill, group="billing", retry=Retry(attempts=3, delay=0.2))
        await subscribe(EVENT, callback=self.reserve, group="stock")

    async def bill(self, order: Order, event: Event) -> None:
        if order.total > 200 and event.attempt == 1:
            self.say("billing", f"{order.order_id}  attempt 1: the card service is busy", "retry")
            raise ConnectionError("the card service is busy")
        if order.customer not in self.customers:
            self.say("billing", f"{order.order_id}  attempt {event.attempt}: no customer {order.customer!r}", "retry")
            raise LookupError(f"no customer {order.customer!r}")
        self.say("billing", f"{order.order_id}  attempt {event.attempt}: {order.total:.2f} paid", "good")
        self.paid.put_nowait(order.order_id)

    def reserve(self, order: Order) -> None:  # a plain function runs in a thread
        self.say("stock", f"{order.order_id}  reserved")


def prd() -> dict[str, object]:
    """The second environment: another provider and another config, and no other line of the program changes."""
    if REDIS:
        return {"slug": "prd", "type": "REDIS", "config": {"url": REDIS, "channel": f"ductape-demo-{RUN}"}}
    return {"slug": "prd", "type": "MEMORY", "config": {"imitate": "log"}}


# ---------------------------------------------------------------- one run through it


async def run(env: str) -> dict[str, object]:
    say = Teller()
    shop = Shop(env, say)
    async with shop.ductape as ductape:
        await shop.declare()

        receipts = await ductape.event.publish_many(EVENT, ORDERS)
        say("publish", f"{len(receipts)} orders stored")
        paid = [await shop.paid.get() for _ in range(3)]  # A-3 is nobody's order yet

        buried = []
        while not buried:  # it has three attempts first
            async for letter in ductape.event.dead(EVENT, group="billing"):
                say(
                    "dead",
                    f"{letter.message['order_id']}  {letter.reason} after {letter.attempts}: {letter.error}",
                    "bad",
                )
                buried.append(letter.id)
                shop.customers.add("eve")
                say("dead", f"{letter.message['order_id']}  customer added, replayed to billing alone")
                await letter.replay()
        paid.append(await shop.paid.get())

        [broker] = (await ductape.health()).brokers
        stats = ductape.stats()[f"{EVENT}/billing"]
        if REDIS and env == "prd":
            await sweep(ductape)
    return {
        "env": env,
        "provider": title(env),
        "published": len(receipts),
        "paid": len(paid),
        "failed": int(stats["failed"]),
        "dead": int(stats["dead"]),
        "replayed": len(buried),
        "durability": broker.durability,
    }


async def sweep(ductape: Ductape) -> None:
    """Leave nothing behind in a Redis that is not ours; `native` gives the client's own object."""
    from redis.asyncio import Redis

    redis = await ductape.native("order-events", Redis)
    names = [name async for name in redis.scan_iter(match=f"*ductape-demo-{RUN}*")]
    if names:
        await redis.delete(*names)


# ---------------------------------------------------------------- telling it

COLOURS = {"good": "32", "retry": "33", "bad": "31", "dim": "2", "bold": "1"}
TTY = sys.stdout.isatty() and "NO_COLOR" not in os.environ
RUN = secrets.token_hex(4)


class Teller:
    """Prints a line with the time since it was made."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()

    def __call__(self, who: str, what: str, style: str = "") -> None:
        clock = paint(f"{time.perf_counter() - self.begin:5.2f} s", "dim")
        # One write: a plain function says it from a thread of its own.
        print(f"  {clock}  {who:<8} {paint(what, style)}\n", end="", flush=True)


def paint(text: str, style: str) -> str:
    return f"\x1b[{COLOURS[style]}m{text}\x1b[0m" if TTY and style else text


def title(env: str) -> str:
    if env == "dev":
        return "MEMORY, a stream"
    return "REDIS" if REDIS else "MEMORY, a log"


def table(rows: list[dict[str, object]]) -> None:
    names = list(rows[0])
    wide = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in names}
    print("  " + paint("  ".join(f"{name:<{wide[name]}}" for name in names).rstrip(), "dim"))
    for row in rows:
        print("  " + "  ".join(f"{row[name]!s:<{wide[name]}}" for name in names).rstrip())


def two_processes() -> None:
    """Publish in one process, and consume in another that starts later: examples/terminals.py, twice."""
    print("\n" + paint("Two processes on a file", "bold") + "   SQLITE, examples/terminals.py")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).with_name("terminals.py"))]
        path = str(Path(folder, "shop.db"))
        subprocess.run([*command, "publish", path], check=True)
        with subprocess.Popen([*command, "consume", path], stdout=subprocess.PIPE, text=True) as consumer:
            assert consumer.stdout is not None
            for line in consumer.stdout:
                print(line.replace(folder, "…"), end="")
                if "paid" in line:
                    break
            consumer.terminate()


def main() -> int:
    # A stream may lose its last moment when the server is killed, and ductape warns of it. Here the table says it.
    logging.getLogger("ductape").setLevel(logging.ERROR)
    print(paint("ductape: one API, and a provider for every environment", "bold"))
    if not REDIS:
        print("No server runs: two imitations of the memory adapter stand for two providers.")
        print("A stream has consumer groups, as in Redis; a log has partitions, as in Kafka.")
    results = []
    try:
        for env in ("dev", "prd"):
            print("\n" + paint(f'Ductape(product="shop", env="{env}")', "bold") + f"   {title(env)}")
            results.append(asyncio.run(run(env)))
    except DuctapeError as error:
        print(error, file=sys.stderr)
        return 1
    if importlib.util.find_spec("ductape_sqlite"):
        two_processes()
    print("\n" + paint("The same code twice; only env= was different.", "bold"))
    table(results)
    print("  durability: a killed server loses nothing (stored), or at most its last moment (buffered)")
    print("\nNext: docs/quickstart.md")
    same = ("published", "paid", "failed", "dead", "replayed")
    return 0 if all(results[0][name] == results[1][name] for name in same) else 1


if __name__ == "__main__":
    sys.exit(main())
