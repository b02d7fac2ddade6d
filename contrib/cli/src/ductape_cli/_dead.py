"""`ductape dead`: list, show, replay and drop dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NamedTuple

from cyclopts import App, Parameter

from ductape import DeadLetter
from ductape.errors import ConfigError

from ._where import Where

__all__ = ["dead"]

dead = App(name="dead", help="Look after dead letters.")


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
    rows = []
    async with where.client() as ductape:
        async for letter in ductape.event.dead(event, group=group, limit=limit):
            fields = {"id": letter.id, "reason": letter.reason, "attempts": letter.attempts, "at": letter.at}
            rows.append({**fields, "error": letter.error})
    where.out.table(rows, empty="no dead letters")
    return 0


@dead.command
async def show(event: str, id: str, *, group: str | None = None, limit: int = 1000, where: Where = Where()) -> int:  # noqa: B008 - frozen
    """Show one dead letter whole; it stays.

    Args:
        event: `broker:topic`.
        id: Its id, or the beginning of it.
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
        ids: Their ids, or the beginnings of them.
        group: Whose; without it, the default group's.
        all: Every one that there is now.
        limit: How many to look through.
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
        ids: Their ids, or the beginnings of them.
        group: Whose; without it, the default group's.
        all: Every one that there is now.
        limit: How many to look through.
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

    return await _each(shelf, list(ids) if ids else [""], tell)


async def _each(shelf: Shelf, wanted: list[str], act: Callable[[DeadLetter], Awaitable[None]]) -> int:
    """Act on every letter whose id begins with one of these; tell which were not found."""
    found: set[str] = set()
    async with shelf.where.client() as ductape:
        async for letter in ductape.event.dead(shelf.event, group=shelf.group, limit=shelf.limit):
            begins = [each for each in wanted if letter.id.startswith(each)]
            if begins:
                found.update(begins)
                await act(letter)
    missing = [each for each in wanted if each not in found]
    for each in missing:
        shelf.where.out.note(f"no dead letter {each} among those listed" if each else "no dead letters")
    return 1 if any(missing) else 0
