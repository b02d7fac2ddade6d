"""Figures of running services: what `ductape run` answers on a socket, and how it is asked for them.

What a handler costs, what is in hand and what is parked only the process itself knows. It tells on a Unix socket in a
folder that nobody but its user can enter; nothing is kept, and nothing is sent unless somebody asks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import msgspec

from ductape import Ductape

__all__ = ["answered", "asked", "folder"]

ASK = 10.0
"""Seconds within which a service answers: it asks its brokers first, each for at most 5 s, then for the lag, 2 s."""
COUNTERS = ("received", "handled", "failed", "dead", "retried")

log = logging.getLogger("ductape.cli")


def folder() -> Path:
    """Return where services of this user have their sockets."""
    named = os.environ.get("DUCTAPE_RUN_DIR")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"ductape-{os.getuid()}"


# ---------------------------------------------------------------- in the service


@asynccontextmanager
async def answered(client: Ductape, target: str) -> AsyncIterator[None]:
    """Answer whoever asks how a client is doing, while this lasts; a service runs without it where that cannot be.

    Args:
        client: Whose figures.
        target: What it was started as.
    """
    if sys.platform == "win32":  # it has no such sockets
        yield
        return
    server, path = None, Path()
    try:
        path = _own_folder() / f"{os.getpid()}-{token_hex(4)}.sock"
        server = await asyncio.start_unix_server(partial(_answer, client, target), path)
    except OSError as error:
        log.warning("`ductape top` will not see this service: %s. DUCTAPE_RUN_DIR names another folder.", error)
    try:
        yield
    finally:
        if server is not None:
            server.close()
            path.unlink(missing_ok=True)


def _own_folder() -> Path:
    """Make the folder; refuse one that others could have made for us, or can enter."""
    path = folder()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OSError(f"{path} is not a folder that only this user can enter")
    return path


async def _answer(client: Ductape, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        writer.write(msgspec.json.encode(await _figures(client, target)))
        await writer.drain()
    except OSError as error:  # who asked is gone
        log.debug("figures: %s", error)
    finally:
        writer.close()


async def _figures(client: Ductape, target: str) -> dict[str, Any]:
    health, stats = await client.health(), client.stats()
    groups = []
    for each in health.subscriptions:
        counters: list[Mapping[str, float]] = [stats.get(f"{event}/{each.group}", {}) for event in each.events]
        counted = {name: sum(one.get(name, 0) for one in counters) for name in (*COUNTERS, "running")}
        groups.append(msgspec.structs.asdict(each) | counted)
    return {
        "target": target,
        "pid": os.getpid(),
        "product": client.product,
        "env": client.env,
        "at": time.monotonic(),
        "healthy": health.healthy,
        "brokers": [msgspec.structs.asdict(each) for each in health.brokers],
        "groups": groups,
        "channels": [{"channel": name, **one} for name, one in stats.items() if "stored" in one],
    }


# ---------------------------------------------------------------- who asks


async def asked() -> list[dict[str, Any]]:
    """Ask every service that runs here as this user; one that does not answer is there with its ``problem``."""
    found = await asyncio.gather(*map(_asked, sorted(folder().glob("*.sock"))))
    return [each for each in found if each is not None]


async def _asked(path: Path) -> dict[str, Any] | None:
    pid = int(name) if (name := path.name.partition("-")[0]).isdigit() else 0
    here = {"target": "", "pid": pid, "socket": path.stem}
    try:
        async with asyncio.timeout(ASK):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                told: dict[str, Any] = msgspec.json.decode(await reader.read())
            finally:
                writer.close()
    except TimeoutError:
        return here | {"problem": f"no answer within {ASK:g} s: something blocks its event loop"}
    except (ConnectionError, FileNotFoundError, msgspec.DecodeError):  # it ended, now or long ago
        _sweep(path, pid)
        return None
    except OSError as error:
        return here | {"problem": f"{path}: {error.strerror}"}
    return here | told


def _sweep(path: Path, pid: int) -> None:
    """Remove what a process that was killed left behind."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        path.unlink(missing_ok=True)
    except OSError:  # it is another user's, and there
        pass
