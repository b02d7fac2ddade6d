"""How a client is doing: for probes, dashboards and people."""

from __future__ import annotations

import asyncio

import msgspec

from ._connections import Link
from ._engine import Engine
from ._group import Group
from .errors import AdapterError


class BrokerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One broker's connection."""

    broker: str
    env: str
    provider: str
    state: str
    """``connected``, ``failing`` or ``not connected`` (nothing was opened yet)."""
    durability: str
    """The least of its channels: ``stored``, ``buffered`` (a killed server may lose the last moment) or ``none``."""
    pending: int
    """Messages that wait to be stored."""
    error: str = ""


class SubscriptionHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One group on one channel."""

    channel: str
    group: str
    events: list[str]
    state: str
    """``receiving``, ``paused``, ``failing`` (it is being reopened) or ``stopped`` (a policy ended it)."""
    last_progress: float
    """Seconds since the last answer of the broker."""
    oldest: float | None
    """Seconds for which the oldest delivery in hand is not settled; None: there is none."""
    in_hand: int
    window: int
    parked: int
    lag: int | None
    """Messages that the group was not given yet, where the provider tells."""
    dropped: int
    """Messages that a lossy channel dropped because the buffer was full."""
    error: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A client's health at one moment."""

    healthy: bool
    """Nothing fails; messages may still be waiting."""
    brokers: list[BrokerHealth]
    subscriptions: list[SubscriptionHealth]


async def health_of(engine: Engine | None) -> Health:
    """Look at everything that is open."""
    if engine is None:
        return Health(healthy=True, brokers=[], subscriptions=[])
    brokers = await asyncio.gather(*(_broker(engine, key) for key in engine.atlas.links))
    subscriptions = await asyncio.gather(*(_group(engine, group) for group in engine.groups.values()))
    bad = any(each.state == "failing" for each in brokers)
    bad = bad or any(each.state in ("failing", "stopped") or each.error for each in subscriptions)
    return Health(healthy=not bad, brokers=brokers, subscriptions=subscriptions)


async def _broker(engine: Engine, key: tuple[str, str]) -> BrokerHealth:
    link = engine.atlas.links[key]
    unanswered = await _unanswered(link)
    boxes = [outbox for (owner, _), outbox in engine.outboxes.items() if owner == id(link)]
    error = next((each.error or each.keeper.error for each in boxes if each.error or each.keeper.error), None)
    error = link.error or unanswered or error
    durability = min((can.durability for can in link.known.values()), default=None)
    return BrokerHealth(
        broker=key[0],
        env=key[1],
        provider=link.provider,
        state="failing" if error else "connected" if link.connected else "not connected",
        durability=durability.name.lower() if durability is not None else "unknown",
        pending=sum(each.pending for each in boxes),
        error=str(error) if error else "",
    )


async def _group(engine: Engine, group: Group) -> SubscriptionHealth:
    sources, subscriptions = group.sources, list(group.subscriptions.values())
    moves = group.plan.moves
    errors = [each for source in sources for each in (source.error, source.settling.error) if each]
    error = group.failure or next(iter(errors), None) or (moves.error if moves is not None else None)
    state = "stopped" if group.failure else "failing" if any(source.error for source in sources) else "receiving"
    if state == "receiving" and subscriptions and all(each.paused for each in subscriptions):
        state = "paused"
    now = engine.clock.now()
    return SubscriptionHealth(
        channel=group.plan.place.channel.name,
        group=group.name,
        events=[each.event for each in subscriptions],
        state=state,
        last_progress=max((now - source.progress for source in sources), default=0.0),
        oldest=group.oldest,
        in_hand=sum(len(source.held) for source in sources),
        window=sum(source.window for source in sources),
        parked=sum(int(each.stats()["parked"]) for each in subscriptions),
        lag=await group.lag(),
        dropped=sum(source.measured.dropped() for source in sources if source.measured is not None),
        error=str(error) if error else "",
    )


async def _unanswered(link: Link) -> AdapterError | None:
    """Ask a connected broker once whether it is there."""
    try:
        if link.connected:
            await link.check()
    except AdapterError as error:
        return error
    return None
