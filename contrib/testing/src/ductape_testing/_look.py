"""What is not done yet, read from the client and from the brokers: never from timers, some of which always run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from ductape.adapter import Purpose

from ._brokers import Brokers

if TYPE_CHECKING:
    from ductape._engine import Engine
    from ductape._group import Group

__all__ = ["Left", "explain", "look", "running", "waits"]


class Left(msgspec.Struct, frozen=True):
    """How much is not done."""

    running: int
    """Handlers that run: they may wait for something real."""
    calling: int
    """Publishes and settlements under way: they wait for the broker, so only for virtual time."""
    in_hand: int
    """Messages that subscriptions hold: queued, parked, running, moving, being settled."""
    undelivered: int
    """Messages that the brokers keep for groups with a subscription, the delayed ones included."""

    @property
    def any(self) -> bool:
        """Something is left."""
        return bool(self.running or self.calling or self.in_hand or self.undelivered)


def look(engine: Engine | None, brokers: Brokers) -> Left:
    """Count what is not done. What a paused or a stopped subscription holds is not waited for."""
    if engine is None:
        return Left(0, 0, 0, 0)
    calling = sum(outbox.pending for outbox in engine.outboxes.values())
    in_hand = undelivered = 0
    for group in engine.groups.values():
        calling += sum(not source.settling.idle for source in group.sources)
        if group.failure is not None:
            continue
        stats = [(each.paused, each.stats()) for each in group.subscriptions.values()]
        in_hand += sum(len(source.held) for source in group.sources)
        in_hand += sum(int(each["moving"]) for _, each in stats)
        in_hand -= sum(int(each["queued"] + each["parked"]) for paused, each in stats if paused)
        if not all(paused for paused, _ in stats):
            undelivered += _undelivered(group, brokers)
    return Left(running(engine), calling, in_hand, undelivered)


def running(engine: Engine) -> int:
    """Count handlers that run."""
    groups = engine.groups.values()
    return sum(int(each.stats()["running"]) for group in groups for each in group.subscriptions.values())


def waits(engine: Engine) -> bool:
    """Tell whether the client waits for a broker: to open, to store, to settle. Only time can end that."""
    if any(outbox.pending for outbox in engine.outboxes.values()):
        return True
    if any(link.error is not None for link in engine.atlas.links.values()):
        return True
    groups = engine.groups.values()
    return any(not group.joined.done() or any(not each.settling.idle for each in group.sources) for group in groups)


def _undelivered(group: Group, brokers: Brokers) -> int:
    place = group.plan.place
    broker = brokers.get(place.link.site.broker, place.env)
    return sum(broker.depth(place.channel.name, group.name, each) for each in (Purpose.EVENTS, Purpose.RETRY))


def explain(engine: Engine | None, brokers: Brokers) -> Iterator[str]:
    """Say what is left, one line each."""
    if engine is None:
        return
    for outbox in engine.outboxes.values():
        if outbox.pending:
            why = f"; the last answer was: {outbox.error}" if outbox.error is not None else ""
            yield f"{outbox.pending} messages wait to be stored on {outbox.name}{why}"
    for group in engine.groups.values():
        for each in group.subscriptions.values():
            stats = each.stats()
            named = ("running", "queued", "parked", "moving")
            held = [f"{stats[name]:g} {name}" for name in named if stats[name]]
            if held:
                paused = " (paused: not waited for)" if each.paused else ""
                yield f"{each.event} in group {group.name!r}: {', '.join(held)}{paused}"
        yield from _explain_group(group, brokers)


def _explain_group(group: Group, brokers: Brokers) -> Iterator[str]:
    if group.failure is not None:
        yield f"group {group.name!r} stopped (not waited for): {group.failure}"
    for source in group.sources:
        if source.error is not None:
            yield f"{source.name} receives nothing: {source.error}"
        if source.settling.error is not None:
            yield f"{source.name} cannot settle: {source.settling.error}"
    if group.plan.moves is not None and group.plan.moves.error is not None:
        yield f"group {group.name!r} cannot store dead letters or retries: {group.plan.moves.error}"
    undelivered = _undelivered(group, brokers)
    if undelivered:
        yield f"{group.plan.place.channel.name}: {undelivered} messages that group {group.name!r} has not settled"
