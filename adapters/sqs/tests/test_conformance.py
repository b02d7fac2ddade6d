"""The SQS adapter, on a real server and through a proxy that cuts and stalls, keeps every promise that it makes."""

from collections.abc import Mapping
from typing import Any

import pytest
from aiobotocore.session import AioSession  # type: ignore[import-untyped]

from ductape_conformance import Harness, random_suite, suite
from ductape_conformance.proxy import TcpProxy
from tests.brokers.server import Server
from tests.brokers.sqs import VERSION

_MEMORY = "ElasticMQ keeps messages in memory: a kill loses them"
_QUIRKS = {
    "faults.stored-survives-a-kill": _MEMORY,
    "outages.a-killed-server-loses-nothing-confirmed": _MEMORY,
}


class SqsHarness(Harness):
    """One server for all scenarios; each has its own proxy."""

    adapter = "aws_sqs"
    client = "aiobotocore"
    server = f"ElasticMQ {VERSION}"
    real = False
    # SQS counts in seconds, a poll takes one of them, and a machine that is busy another.
    redelivery_bound = 5.5
    patience = 20.0
    processes = True
    fixtures = ("sqs_server",)
    lease = 4
    fifo = False
    deaf = False
    quirks = _QUIRKS

    @property
    def running(self) -> Server:
        """The server that the suite was given."""
        server: Server = self.fixture[self.fixtures[0]]
        return server

    async def config(self, namespace: str) -> Mapping[str, Any]:
        server = self.running
        self.proxy = await self.stack.enter_async_context(TcpProxy(server.host, server.port))
        return {
            "region": "us-east-1",
            "accessKeyId": "test",
            "secretAccessKey": "test",
            "endpoint": f"http://127.0.0.1:{self.proxy.port}",
            "lease": self.lease,
            "poll": 1,
            "fifo": self.fifo,
        }

    async def cut(self) -> None:
        self.proxy.cut()

    async def stall(self) -> None:
        self.proxy.stall()

    async def resume(self) -> None:
        if self.deaf:  # bytes are missing in the middle of what came: no network goes on after that
            self.deaf = False
            self.proxy.cut()
        self.proxy.resume()

    async def half_open(self) -> None:
        self.deaf = True
        self.proxy.half_open()

    async def slow(self, seconds: float) -> None:
        self.proxy.slow(seconds)

    async def kill(self) -> None:
        """Take the server away: it lives on behind a closed door, since it would forget everything."""
        await self.proxy.refuse()
        self.proxy.cut()

    async def restart(self) -> None:
        await self.proxy.accept()

    async def forget(self, channel: str, group: str) -> None:
        """Delete the queue, which is its group."""
        session = AioSession()
        session.set_credentials("test", "test")
        making = session.create_client("sqs", region_name="us-east-1", endpoint_url=self.running.url)
        async with making as client:
            name = channel.replace(".", "_") + (".fifo" if self.fifo else "")
            await client.delete_queue(QueueUrl=(await client.get_queue_url(QueueName=name))["QueueUrl"])


# Nothing here disturbs the server: parts may be played on several workers, each with one of its own.
test_standard = pytest.mark.xdist_group("sqs-contract")(suite(SqsHarness, level="contract"))
test_standard_promises = pytest.mark.xdist_group("sqs-promises")(suite(SqsHarness, level="promise"))
test_fifo = pytest.mark.xdist_group("sqs-fifo")(
    suite(
        SqsHarness,
        fifo=True,
        only=(
            *("contract.", "roundtrip.", "send.", "settle.", "groups.", "order.", "derived."),
            *("delivery.", "retry.", "dead.", "lanes.", "refuse.", "stop."),
        ),
    )
)
# Leases of 4 s run out in real time: a history takes some seconds.
test_random = pytest.mark.timeout(240)(pytest.mark.xdist_group("sqs-fifo")(random_suite(SqsHarness, examples=6)))


class MotoHarness(SqsHarness):
    """A second opinion: what other people understood SQS to be.

    Moto answers from a thread for each request, and none of them locks a queue: of polls and settlements under way
    together it may hide a message for long. So what many members do at a time is left to ElasticMQ, and so are links
    that break, which are no matter of the server.
    """

    fixtures = ("moto_server",)
    lease = 3
    redelivery_bound = 4.5
    quirks: Mapping[str, str] = {
        "send.one-answer-each": "moto takes the longer the more a queue holds: leases end before a hundred are settled",
        "settle.one-answer-each": "moto locks no queue that is polled: of thirty, one that was deleted may come again",
    }


# Each on a worker of its own, or they would be the last to end.
_OPINIONS = ("roundtrip.", "send.", "settle.", "order.", "derived.")
test_standard_on_moto = pytest.mark.xdist_group("sqs-moto")(
    suite(MotoHarness, level="contract", only=_OPINIONS, server="moto")
)
test_fifo_on_moto = pytest.mark.xdist_group("sqs-moto-fifo")(
    suite(MotoHarness, level="contract", only=_OPINIONS, server="moto", fifo=True)
)
