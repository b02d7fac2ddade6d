"""Real servers for tests: found or installed, started on free loopback ports, killed, restarted, and cleaned up.

A further server is one module with a `Server` subclass, one line in `SERVERS` and two lines in `plugin.py`. `server.py`
tells what the subclass answers, `proxy.py` cuts, stalls and half-opens the link to it.
"""

from tests.brokers.proxy import Link, TcpProxy
from tests.brokers.redis import Redis
from tests.brokers.server import NotOurs, Server, Unavailable

SERVERS: tuple[type[Server], ...] = (Redis,)

__all__ = ["SERVERS", "Link", "NotOurs", "Redis", "Server", "TcpProxy", "Unavailable"]
