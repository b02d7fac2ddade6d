"""Where the server is, and what can be done to it."""

from collections.abc import Mapping
from typing import Any

from ductape.adapter import Connection
from ductape_conformance import Harness, VirtualClock


class CamelHarness(Harness):
    adapter = "NAME"
    client = ""  # the distribution of the client library, for the report
    server = "in process"  # and the server's version
    real = False  # a real server: True
    redelivery_bound = 5.0  # seconds within which what nobody settles is delivered again

    async def config(self, namespace: str) -> Mapping[str, Any]:
        return {"server": namespace}

    def clock(self) -> VirtualClock:
        return VirtualClock()  # time that jumps; where a server is involved, leave this method out

    async def crash(self, connection: Connection) -> None:
        await connection.close()  # a real one: close its sockets, without a word

    # cut, stall and resume, kill and restart, forget: the more of them, the more is proved
