"""`ductape dead`: list, show, replay and drop dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, NamedTuple

from cyclopts import App, Parameter

from ductape import DeadLetter, Ductape
from ductape.adapter import AdapterError, Purpose
from ductape.errors import ConfigError, OpenError

from ._where import Where, above, absent, closing, looking

__all__ = ["dead"]

dead = App(name="dead", help="Look after dead letters.")


class Letters(NamedTuple):
    """What lists at most so many letters of a group, and what is said where there are none."""

    listed: Callable[[int], AsyncIterator[DeadLetter]]
    none: str


class Shelf(NamedTuple):
    """Whose letters, and how many of them are looked through."""

    where: Where
    event: str
    group: str | None
    limit: int


All = Annotated[bool, Parameter(name="--all", negative="")]


@dead.command(name="list")
async def list_(event: str, *, group: str | None = None, limit: int = 100, where: Where = Where()) -> int:  # noqa: B008 - frozen
    """List the dead letters of a group; they stay.

    Args:
        event: `broker:topic`.
        group: Whose; without it, the default group's.
        limit: How many at most.
        where: Catalog, product and environment.
    """
    above("limit", limit, least=1)
    rows = []
    async with _opened(Shelf(where, event, group, limit)) as letters:
        async for letter in letters.listed(limit + 1):
            fields = {"id": letter.id, "reason": letter.reason, "attempts": letter.attempts, "at": letter.at}
            rows.append({**fields, "error": letter.error})
    where.out.table(rows[:limit], empty=letters.none)
    if len(rows) > limit:
        where.out.note(f"there are more than these {limit}: --limit shows more")
    return 0


@dead.command
async def show(event: str, id: str, *, group: str | None = None, limit: int = 1000, where: Where = Where()) -> int:  # noqa: B008 - frozen
    """Show one dead letter whole; it stays.

    Args:
        event: `broker:topic`.
        id: Its id, or a beginning that no other has.
        group: Whose; without it, the default group's.
        limit: How many to look through.
        where: Catalog, product and environment.
    """

    async def tell(letter: DeadLetter) -> None:
        message = letter.message if not isinstance(letter.message, bytes) else letter.message.decode(errors="replace")
        facts: dict[str, Any] = {"id": letter.id, "event": letter.event, "group": letter.group, "reason": letter.reason}
        facts |= {"error": letter.error, "attempts": letter.attempts, "at": letter.at, "stored_at": letter.stored_at}
        where.out.record({**facts, "origin": letter.origin, "headers": letter.headers, "message": message})

    return await _each(Shelf(where, event, group, limit), [id], tell)


@dead.command
async def replay(
    event: str,
    *ids: str,
    group: str | None = None,
    all: All = False,
    limit: int = 1000,
    where: Where = Where(),  # noqa: B008 - frozen
) -> int:
    """Hand dead letters to their group once more, and to no other; attempts begin anew.

    Args:
        event: `broker:topic`.
        ids: Their ids, or beginnings that no other has.
        group: Whose; without it, the default group's.
        all: Every one that there is now.
        limit: How many to look through; with --all, how many at a time.
        where: Catalog, product and environment.
    """
    return await _done(Shelf(where, event, group, limit), ids, all, "replayed", DeadLetter.replay)


@dead.command
async def drop(
    event: str,
    *ids: str,
    group: str | None = None,
    all: All = False,
    limit: int = 1000,
    where: Where = Where(),  # noqa: B008 - frozen
) -> int:
    """Remove dead letters for good.

    Args:
        event: `broker:topic`.
        ids: Their ids, or beginnings that no other has.
        group: Whose; without it, the default group's.
        all: Every one that there is now.
        limit: How many to look through; with --all, how many at a time.
        where: Catalog, product and environment.
    """
    return await _done(Shelf(where, event, group, limit), ids, all, "dropped", DeadLetter.drop)


async def _done(
    shelf: Shelf, ids: tuple[str, ...], every: bool, what: str, act: Callable[[DeadLetter], Awaitable[None]]
) -> int:
    if bool(ids) == every:
        raise ConfigError("OPTION_INVALID", "name the letters' ids, or all of them with --all.", option="ids")

    async def tell(letter: DeadLetter) -> None:
        await act(letter)
        shelf.where.out.line(f"{what} {letter.id}", {"id": letter.id, what: True})

    return await (_every(shelf, tell) if every else _each(shelf, ids, tell))


async def _every(shelf: Shelf, act: Callable[[DeadLetter], Awaitable[None]]) -> int:
    """Act on all letters, one listing after the other; one that comes back meanwhile is for the next time."""
    above("limit", shelf.limit, least=1)
    seen: set[str] = set()
    async with _opened(shelf) as letters:
        before = -1
        while before < len(seen):
            before = len(seen)
            async for letter in letters.listed(shelf.limit):
                if letter.id not in seen:
                    seen.add(letter.id)
                    await act(letter)
    if not seen:
        shelf.where.out.note(letters.none)
    return 0


async def _each(shelf: Shelf, wanted: Sequence[str], act: Callable[[DeadLetter], Awaitable[None]]) -> int:
    """Act on the letters of these ids, or beginnings of one id each; tell which were not found."""
    above("limit", shelf.limit, least=1)
    if "" in wanted:
        raise ConfigError("OPTION_INVALID", "an id is empty; --all is for all of them.", option="ids")
    out = shelf.where.out
    async with _opened(shelf) as letters:
        ids = [letter.id async for letter in letters.listed(shelf.limit)]
        if not ids:
            out.note(letters.none)
        begins = {each: [each] if each in ids else [id for id in ids if id.startswith(each)] for each in wanted}
        several = {each: found for each, found in begins.items() if len(found) > 1}
        for each, found in several.items():
            text = f"{each} is the beginning of {len(found)} dead letters: {', '.join(found)}. Nothing was done."
            out.error("DEAD_LETTER_UNCLEAR", text)
        if several:
            return 1
        left = {id for found in begins.values() for id in found}
        # A listing gives back what it held: only while it lasts can its letters be acted on.
        async for letter in letters.listed(shelf.limit if left else 0):
            if letter.id in left:
                left.discard(letter.id)
                await act(letter)
    missing = [each for each, found in begins.items() if not found or found[0] in left]
    for each in missing:
        text = f"no dead letter {each} among the {len(ids)} listed"
        out.error("DEAD_LETTER_NOT_FOUND", f"{text}; --limit looks through more" if len(ids) == shelf.limit else text)
    return 1 if missing else 0


@asynccontextmanager
async def _opened(shelf: Shelf) -> AsyncIterator[Letters]:
    """Give what lists at most so many of the group's letters; nothing is created, and nothing of an app is served."""
    async with closing(shelf.where.client()) as ductape:
        nowhere = await _nowhere(shelf, ductape)

        async def letters(limit: int) -> AsyncIterator[DeadLetter]:
            if limit and not nowhere:
                async for letter in ductape.event.dead(shelf.event, group=shelf.group, limit=limit):
                    yield letter

        yield Letters(letters, nowhere or "no dead letters")


async def _nowhere(shelf: Shelf, declared: Ductape) -> str:
    """Say that the group has no place for dead letters, or nothing; to ask does not make one, whatever it is called."""
    async with await looking(declared) as ductape:
        engine = ductape.engine
        assert engine is not None  # open
        place = await engine.atlas.place(shelf.event)
        group = place.group if shelf.group is None else shelf.group
        try:
            await place.link.prepare(place.private(Purpose.DEAD, group), ())
        except AdapterError as error:
            if not absent(error):
                text = f"dead letters of {shelf.event!r} in group {group!r}: {error.text}."
                raise OpenError("CONNECT_FAILED", text) from error
            known = f" The topic declares {', '.join(place.groups)}." if group not in place.groups else ""
            return f"no dead letters of group {group}.{known}"
    return ""
