"""`ductape publish` and `ductape tail`."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
from cyclopts import Parameter

from ductape import Ductape, Event
from ductape.adapter import AdapterError, Groups, Removable
from ductape.errors import CapabilityError, ConfigError, ManyFailed, OpenError, PayloadError

from ._ending import ending
from ._out import Out
from ._where import Where, above, closing, looking

__all__ = ["publish", "tail"]

PART = 1000
"""Messages that are prepared at a time."""


@Parameter(name="*")
@dataclass(frozen=True)
class Along:
    """What goes with a message."""

    key: str | None = None
    """What order is kept within."""
    id: str | None = None
    """The message's identity; for a single message."""
    header: Annotated[dict[str, str], Parameter(negative="")] = field(default_factory=dict)
    """Text that travels with it, as `--header.name value`."""
    delay: float = 0.0
    """Seconds until it may be delivered; for a single message."""


async def publish(
    event: str,
    message: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    along: Along = Along(),
    whole: Annotated[bool, Parameter(negative="")] = False,
    where: Where = Where(),  # noqa: B008 - frozen
) -> int:
    """Publish a message, or one for each line of a file.

    Args:
        event: `broker:topic`.
        message: JSON; `-` reads standard input and `@file` a file, one message a line.
        along: What goes with it.
        whole: With `-` or `@file`: the whole text is one message.
        where: Catalog, product and environment.
    """
    async with closing(where.client()) as ductape:
        if (message == "-" or message.startswith("@")) and not whole:
            return await _publish_lines(ductape, event, message, along, where.out)
        text = message
        if message == "-" or message.startswith("@"):
            with _opened(message) as file:
                text = file.read()
        body = _parsed(text, message if whole else "MESSAGE")
        await _outside(ductape, event)
        receipt = await ductape.event.publish(
            event, body, key=along.key, id=along.id, headers=along.header, delay=along.delay
        )
        fields = {"id": receipt.id, "position": receipt.position, "duplicate": receipt.duplicate}
        where.out.line(f"stored {receipt.id} at {receipt.position or event}", fields)
    return 0


async def _publish_lines(ductape: Ductape, event: str, source: str, along: Along, out: Out) -> int:
    if along.id is not None or along.delay:
        text = "--id and --delay are for a single message; with lines, leave them out, or add --whole."
        raise ConfigError("OPTION_INVALID", text)
    stored = failed = 0
    with _opened(source) as file, _progress(out) as advance:
        await _outside(ductape, event)
        lines = _numbered(file, source)
        while part := await asyncio.to_thread(lambda: [*islice(lines, PART)]):
            wrong = next((line for line in part if isinstance(line, PayloadError)), None)
            bodies = part[: part.index(wrong)] if wrong is not None else part
            try:
                stored += len(
                    await ductape.event.publish_many(event, bodies, key=lambda _: along.key, headers=along.header)
                )
            except ManyFailed as error:
                bad = [each for each in error.results if isinstance(each, BaseException)]
                failed += len(bad)
                stored += len(error.results) - len(bad)
                out.error(error.code, str(error).removesuffix(" See .results for each."))
            advance(len(part))
            if wrong is not None:
                out.line(f"{stored} stored before it", {"stored": stored, "failed": failed})
                raise wrong
    out.line(f"{stored} stored" + (f", {failed} not" if failed else ""), {"stored": stored, "failed": failed})
    return 1 if failed else 0


@contextmanager
def _opened(source: str) -> Iterator[TextIO]:
    if source == "-":
        if isinstance(sys.stdin, TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield sys.stdin
        return
    if not Path(source[1:]).is_file():
        raise ConfigError("OPTION_INVALID", f"{source[1:]}: no such file.")
    # What is no UTF-8 is refused with its line, by the parser.
    with Path(source[1:]).open(encoding="utf-8", errors="surrogateescape") as file:
        yield file


def _numbered(file: TextIO, source: str) -> Iterator[Any]:
    """Give every line's message; a line that is none gives an error, and ends it."""
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield _parsed(line, f"{source.lstrip('@')} line {number}")
            except PayloadError as error:
                yield error
                return


def _parsed(text: str, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except UnicodeError:
        raise PayloadError("PAYLOAD_INVALID", f"{where} is not UTF-8.") from None
    except msgspec.DecodeError as error:
        raise PayloadError("PAYLOAD_INVALID", f"{where} is no JSON: {error}. Text is written '\"text\"'.") from None


@contextmanager
def _progress(out: Out) -> Iterator[Any]:
    if out.json or not sys.stderr.isatty():
        yield lambda number: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("published"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("published", total=None)
        yield lambda number: progress.advance(task, number)


async def tail(
    event: str,
    *,
    start: str = "latest",
    limit: int | None = None,
    seconds: float | None = None,
    where: Where = Where(),  # noqa: B008 - frozen
) -> int:
    """Show what arrives, live, until it is interrupted.

    It reads in a group of its own, which is removed in the end: no other group misses a message.

    Args:
        event: `broker:topic`.
        start: latest, earliest, or an RFC 3339 instant.
        limit: End after so many messages.
        seconds: End after so many seconds.
        where: Catalog, product and environment.
    """
    above("limit", limit, least=1)
    above("seconds", seconds)
    out, group = where.out, f"tail-{secrets.token_hex(4)}"
    # The app's own middleware stays out: one that keeps track of what was handled would take a look for it.
    async with await looking(where.client(), creates=True) as ductape:
        lossy = await _may_tail(ductape, event, group)
        done = asyncio.Event()
        subscription = await ductape.event.subscribe(
            event,
            callback=Shown(out, limit, done).show,
            group=group,
            start=start,
            concurrency=1,
            on_unmatched="ignore",
        )
        out.note(f"{event} from {start}; interrupt to end")
        try:
            with ending(done), suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await done.wait()
        finally:
            await subscription.close()
            if not lossy:
                await ductape.event.remove_group(event, group=group)
    return 0


class Shown:
    """Messages as they are shown, until there are enough."""

    def __init__(self, out: Out, limit: int | None, done: asyncio.Event) -> None:
        """Show `limit` at most; the last one sets `done`."""
        self._out, self._left, self._done = out, limit, done

    async def show(self, event: Event[bytes]) -> None:
        """Show one; whatever its bytes are, for there is nowhere to put what cannot be read."""
        if self._left is not None:
            if self._left == 0:
                return
            self._left -= 1
        try:
            message = msgspec.json.decode(event.message)
        except ValueError:
            message = event.message.decode(errors="replace")
        fields = {"id": event.id, "time": event.time, "key": event.key, "headers": event.headers, "message": message}
        when = event.time.astimezone().strftime("%H:%M:%S.%f")[:-3] if event.time else "-"
        body = message if isinstance(message, str) else msgspec.json.encode(message).decode()
        self._out.line(f"{when}  {event.id}  {body}", fields)
        if self._left == 0:
            self._done.set()


async def _may_tail(ductape: Ductape, event: str, group: str) -> bool:
    """Refuse what cannot be watched without disturbing others; tell if the channel has no groups at all."""
    place = await _outside(ductape, event)
    try:
        connection, can = await place.link.prepare(place.channel, place.groups)
    except AdapterError as error:
        raise OpenError("CONNECT_FAILED", f"{event}: {error.text}.") from error
    if can.groups is Groups.NONE:
        return True
    if can.groups is Groups.ONE:
        text = f"{event}: {place.link.provider} has one group a channel: to watch would take messages from it."
        raise CapabilityError("CAPABILITY_MISSING", text, capability="groups")
    if not isinstance(connection, Removable):
        text = f"{event}: {place.link.provider} cannot remove a group, so {group} would stay behind."
        raise CapabilityError("CAPABILITY_MISSING", text, capability="remove")
    return False


async def _outside(ductape: Ductape, event: str) -> Any:
    """Return where an event lives; refuse what ends with this process, whether its adapter is installed or not."""
    broker = await ductape.broker.fetch((await ductape.broker.topic.fetch(event)).broker)
    if broker.env(ductape.env).type == "MEMORY":
        text = f"{event}: the memory broker lives inside the process that uses it; another one sees nothing of it."
        raise CapabilityError("CAPABILITY_MISSING", text, capability="groups")
    await ductape.event.publisher(event)  # it begins with the first
    engine = ductape.engine
    assert engine is not None  # begun
    return await engine.atlas.place(event)
