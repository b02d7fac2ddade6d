"""What the runs must know of a provider."""

import asyncio
import collections
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, ClassVar

from ductape import Ductape
from ductape_conformance.proxy import TcpProxy
from tests.brokers import Server

TOPIC, GROUP = "b:t", "billing"

Row = dict[str, Any]
Run = Callable[["Ground"], Coroutine[Any, Any, Row]]


class Ground(ABC):
    """A provider under load: its server, the config of a client, and a look at what is stored.

    Attributes:
        name: As in `PROVIDERS`.
        packages: Distributions whose versions the report names.
        settings: What of the server's settings matters, for the report.
        lease: Seconds after which what a dead consumer held comes back, in the config of `env`.
        durable: Whether the server keeps what it confirmed through a kill; one that does not is not killed.
        ordered: Whether messages of one key are kept in order; then the runs ask for it, and check it.
        messages: How many messages a run of consumers has at least.
        pause: Seconds between two hundreds of them.
        patience: Seconds without progress after which what is missing counts as lost.
        server: The server while `running` is entered.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    settings: ClassVar[str] = ""
    lease: ClassVar[float] = 3.0
    durable: ClassVar[bool] = True
    ordered: ClassVar[bool] = False
    messages: ClassVar[int] = 20_000
    pause: ClassVar[float] = 0.02
    patience: ClassVar[float] = 30.0
    server: Server

    @abstractmethod
    def make(self) -> Server:
        """Return a server of the run's own, not started."""

    @abstractmethod
    def env(self, port: int | None = None) -> Mapping[str, Any]:
        """Return `type` and `config` of the environment; through a proxy on this port where one is given."""

    @abstractmethod
    async def stored(self) -> collections.Counter[str]:
        """Count what the server has stored on the topic's channel, by `ductape-id`, with the raw client."""

    def topic(self) -> Mapping[str, Any]:
        """Return further options of the topic."""
        return {"groups": [GROUP]} | ({"order": "key"} if self.ordered else {})

    def more(self) -> Mapping[str, Run]:
        """Return runs that only this provider can be asked for, by name."""
        return {}

    # -- what the runs ask

    @contextmanager
    def running(self) -> Iterator[Server]:
        """Start a server, and stop it."""
        self.server = self.make()
        self.server.start()
        try:
            yield self.server
        finally:
            self.server.stop()

    def proxied(self, server: Server) -> AbstractAsyncContextManager[TcpProxy]:
        """Open a proxy in front of the server; `env` is given its port."""
        return TcpProxy(server.host, server.port)

    async def client(self, port: int | None = None, **options: Any) -> Ductape:
        """Return a client that knows the topic."""
        return await declared(self.env(port), self.topic(), **options)

    async def killed(self) -> None:
        """Kill -9 the server, and start it again a second later."""
        await asyncio.to_thread(self.server.kill)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(self.server.restart)


async def declared(env: Mapping[str, Any], topic: Mapping[str, Any], **options: Any) -> Ductape:
    """Return a client with the broker and the topic of all runs."""
    ductape = Ductape(product="soak", env="dev", **options)
    environment: Any = {"slug": "dev", **env}
    await ductape.broker.create(tag=TOPIC.partition(":")[0], envs=[environment])
    await ductape.broker.topic.create(tag=TOPIC, **topic)
    return ductape
