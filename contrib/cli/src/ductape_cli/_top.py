"""`ductape top`: how running services are doing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from ductape.errors import ConfigError

from ._ending import ending
from ._figures import asked, folder
from ._out import Out
from ._where import Json, above

__all__ = ["top"]

Figures = dict[str, Any]
RATES = {"groups": ("received", "handled", "failed"), "channels": ("stored", "failed")}
LEAST = ("oldest s", "state", "service", "dead", "parked", "done/s", "pending")
"""What is left out where a terminal is narrow, one after the other."""


async def top(target: str | None = None, *, interval: float = 2.0, limit: int | None = None, json: Json = False) -> int:
    """Show how the services do that `ductape run` started here as this user: rates, in hand, parked, lag, errors.

    The figures are the services' own, asked of each on a local socket: no message is taken, and no group is joined.
    What is no terminal gets one table; with --json, one object for every look until it is interrupted.

    Args:
        target: Only services that were started as this: `shop.service:ductape`.
        interval: Seconds between two looks; rates are those between them.
        limit: End after so many looks.
        json: Write JSON, for programs.
    """
    above("interval", interval)
    above("limit", limit, least=1)
    out = Out(json=json)
    if sys.platform == "win32":
        raise ConfigError("OPTION_INVALID", "ductape top needs Unix sockets, which Python does not have on Windows.")
    live = not json and sys.stdout.isatty()
    left = limit if limit is not None or json or live else 1
    looked = await _looked(target, {})
    if not looked:
        out.error("SERVICE_NOT_FOUND", _nothing(target))
        return 1
    ended = asyncio.Event()
    with ending(ended), _screen(out, live=live) as show:
        if live:  # at once; the others want rates, and wait for the second look
            show(looked.values())
        while left is None or left > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await ended.wait()
                    break
            looked = await _looked(target, looked)
            show(looked.values())
            left = left - 1 if left is not None else None
    return 0


def _nothing(target: str | None) -> str:
    what = f"no service {target!r}" if target else "no service"
    return (
        f"{what} runs here as this user. Start it with `ductape run {target or 'module:name'}`; a service that was "
        f"started otherwise, or as another user, is not seen. Looked in {folder()} (DUCTAPE_RUN_DIR names another)."
    )


async def _looked(target: str | None, before: Mapping[str, Figures]) -> dict[str, Figures]:
    """Ask, and add the rates since the last look; what is new, or began anew, has none yet."""
    found = [each for each in await asked() if target is None or each["target"] in (target, "")]
    for each in found:
        last = before.get(each["socket"], {})
        for kind, names in RATES.items():
            known = {_identity(one): one for one in last.get(kind, ())}
            for one in each.get(kind, ()):
                then = known.get(_identity(one))
                one["per_second"] = {
                    name: None if then is None else _rate(one[name] - then[name], each["at"] - last["at"])
                    for name in names
                }
    return {each["socket"]: each for each in found}


def _identity(one: Figures) -> tuple[str, str]:
    return one["channel"], one.get("group", "")


def _rate(more: float, seconds: float) -> float | None:
    return round(more / seconds, 1) if more >= 0 and seconds > 0 else None


# ---------------------------------------------------------------- for people


@contextmanager
def _screen(out: Out, *, live: bool) -> Iterator[Callable[[Iterable[Figures]], None]]:
    """Give what shows a look: an object, or tables; on a terminal always in the same place."""
    if out.json:
        yield lambda services: out.line("", {"time": datetime.now(UTC), "services": list(services)})
        return
    from rich.console import Console

    # A pipe or a file gets everything, however wide the terminal was.
    console = Console(width=None if live else 200, highlight=False)
    if not live:
        yield lambda services: console.print(_view(services, console.width))
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as shown:
        yield lambda services: shown.update(_view(services, console.width), refresh=True)


def _view(services: Iterable[Figures], width: int) -> Any:
    from rich.console import Group
    from rich.text import Text

    services = list(services)
    several = len(services) > 1
    groups, channels, lines = [], [], []
    for each in services:
        named = {"service": f"{each['target']} {each['pid']}".strip()} if several else {}
        groups += [named | _group(one) for one in each.get("groups", ())]
        channels += [named | _channel(one) for one in each.get("channels", ())]
        lines += [Text(line, overflow="fold") for line in _lines(each)]
    if not services:
        lines = [Text("no service runs any more")]
    tables = [part for rows in (groups, channels) if rows for part in (Text(), _table(rows, width))]
    return Group(*lines, *tables)


def _lines(service: Figures) -> Iterator[str]:
    """Say what a service is, and everything that is wrong with it."""
    named = f"{service['target'] or 'a service'}, pid {service['pid']}"
    if "problem" in service:
        yield f"{named}: {service['problem']}"
        return
    good = "healthy" if service["healthy"] else "NOT HEALTHY"
    yield f"{named}, product {service['product']}, env {service['env']}: {good}"
    for broker in service["brokers"]:
        if broker["error"]:
            yield f"  broker {broker['broker']} ({broker['provider']}) {broker['state']}: {broker['error']}"
    for group in service["groups"]:
        if group["error"]:
            yield f"  group {group['group']} {group['state']}: {group['error']}"


def _group(one: Figures) -> dict[str, object]:
    rates = one["per_second"]
    row = {"group": one["group"], "in/s": rates["received"], "done/s": rates["handled"], "failed/s": rates["failed"]}
    row |= {"in hand": one["in_hand"], "parked": one["parked"], "lag": one["lag"], "dead": one["dead"]}
    return row | {"oldest s": None if one["oldest"] is None else round(one["oldest"], 1), "state": one["state"]}


def _channel(one: Figures) -> dict[str, object]:
    rates = one["per_second"]
    row = {"published to": one["channel"], "stored/s": rates["stored"], "failed/s": rates["failed"]}
    return row | {"pending": one["pending"]}


def _table(rows: Sequence[Mapping[str, object]], width: int) -> Any:
    from rich import box
    from rich.table import Table

    shown = {name: ["-" if row[name] is None else str(row[name]) for row in rows] for name in rows[0]}
    for least in LEAST:
        if sum(2 + max(map(len, (name, *cells))) for name, cells in shown.items()) > width:
            shown.pop(least, None)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in shown:
        words = isinstance(rows[0][name], str)
        table.add_column(name, justify="left" if words else "right", no_wrap=True)
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*cells)
    return table
