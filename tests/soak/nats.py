"""NATS JetStream: shared by a group's members, and in order with one of them pinned."""

import collections
from collections.abc import Mapping
from typing import Any, ClassVar

import nats
from nats.errors import TimeoutError as Nothing

from tests.brokers import Nats
from tests.soak.ground import Ground, Row, Run


class NatsGround(Ground):
    """NATS."""

    name: ClassVar[str] = "nats"
    packages: ClassVar[tuple[str, ...]] = ("ductape-nats", "nats-py")
    settings: ClassVar[str] = "one node, file storage, the server's own sync interval"

    def make(self) -> Nats:
        """Return a server of the new generation."""
        return Nats()

    def env(self, port: int | None = None) -> Mapping[str, Any]:
        """Return a short lease."""
        url = f"nats://127.0.0.1:{port or self.server.port}"
        return {"type": "NATS", "config": {"servers": url, "lease": self.lease}}

    async def stored(self) -> collections.Counter[str]:
        """Read the stream from its beginning."""
        counts: collections.Counter[str] = collections.Counter()
        async with await nats.connect(self.server.url) as client:
            stream = client.jetstream()
            left = (await stream.stream_info("b_t")).state.messages
            reader = await stream.subscribe("b.t", ordered_consumer=True)
            while counts.total() < left:
                try:
                    message = await reader.next_msg(timeout=10)
                except Nothing:
                    break
                counts[(message.headers or {})["ductape-id"]] += 1
        return counts

    def more(self) -> Mapping[str, Run]:
        """Return the runs of consumers in order, one member pinned."""
        from tests.soak.runs import runs  # which asks this

        ordered = InOrder()
        found = runs(ordered)

        def of(name: str) -> Run:
            async def run(ground: Ground) -> Row:
                return await found[name](ordered)

            return run

        return {f"in order: {name}": of(name) for name in found if name.startswith("consum")}


class InOrder(NatsGround):
    """The same, with keys."""

    ordered: ClassVar[bool] = True

    def more(self) -> Mapping[str, Run]:
        """Return nothing."""
        return {}


GROUND = NatsGround()
