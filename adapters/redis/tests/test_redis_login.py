"""What a refused login says."""

from __future__ import annotations

import asyncio

import pytest

from ductape.adapter import Fault
from ductape.errors import AdapterError
from ductape_redis._link import Endpoint, Link


async def test_a_refused_login_names_the_address_and_what_to_look_at_and_no_object() -> None:
    gone = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n" * 20)
        await writer.drain()
        await reader.read()
        writer.close()
        gone.set()

    async def login() -> tuple[str, ...]:
        return ("hunter2",)

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = Link(Endpoint(host="127.0.0.1", port=port, login=login))
    with pytest.raises(AdapterError) as caught:
        await link.open()
    link.end()
    await gone.wait()
    server.close()
    await server.wait_closed()
    assert caught.value.fault is Fault.CONFIG
    assert caught.value.text == (
        f"127.0.0.1:{port}: the password or user is refused (WRONGPASS): look at config.username, config.password"
    )
