"""Real servers for tests: found or installed, started on free loopback ports, killed, restarted, and cleaned up.

A further server is one module with a `Server` subclass and one line in `SERVERS`: the fixtures `<name>_server` and
`<name>_proxy` follow from it. `server.py` tells what the subclass answers, `maven.py` provides servers written in Java.
The proxy that cuts, stalls and half-opens links is part of the conformance kit.
"""

from tests.brokers.redis import Redis
from tests.brokers.server import NotOurs, Server, Unavailable

SERVERS: tuple[type[Server], ...] = (Redis,)

__all__ = ["SERVERS", "NotOurs", "Redis", "Server", "Unavailable"]
