"""At-least-once delivery as a small model: told what was asked and what came, it says what may not be.

It knows nothing of an adapter's inside, only the contract: what was answered, and what was handed over. Where an answer
was lost the model is unsure, and unsure means that both are allowed; it never demands what the contract does not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from ductape.adapter import AdapterError, Capabilities, Count, Delivery, Durability, Fault, Groups, Verdict

__all__ = ["Fate", "Holding", "Model", "Violation"]

LEEWAY = 0.1
"""Seconds by which a lease may seem to end early: the server's clock is not ours."""


class Violation(AssertionError):
    """Something happened that may not be."""


class Sent:
    """One message, as it was sent."""

    __slots__ = ("body", "headers", "key", "number", "stored")

    def __init__(self, number: int, key: str, body: bytes, headers: dict[str, str]) -> None:
        self.number, self.key, self.body, self.headers = number, key, body, headers
        self.stored: bool | None = None
        """None: the answer was lost, so it may be stored."""


class Fate:
    """What has become of one message in one group."""

    __slots__ = ("acked", "certain", "due", "given", "last", "returned")

    def __init__(self) -> None:
        self.acked: bool | None = False
        """None: perhaps, the answer was lost or is not final yet."""
        self.due = 0.0
        """It may not come before."""
        self.given = self.returned = 0
        """How often it was handed over; how often of those it was handed back."""
        self.last: Holding | None = None
        """Who was given it last: the verdicts of others move nothing."""
        self.certain = True
        """Nothing has happened that may have raised its count unseen."""


class Holding:
    """One delivery in the hands of one member."""

    __slots__ = ("delivery", "fate", "id", "late", "member", "sent", "settling", "sure", "tried")

    def __init__(self, member: object, id: str, delivery: Delivery, sent: Sent, fate: Fate) -> None:
        self.member, self.id, self.delivery, self.sent, self.fate = member, id, delivery, sent, fate
        self.settling = False
        self.late = False
        """Its lease was over when it was settled."""
        self.tried = False
        """A settlement of it had no answer."""
        self.sure = True
        """Nothing has happened that may have given it to others."""

    def ours(self, now: float) -> bool:
        """Tell whether nobody else may be given it now."""
        until = self.delivery.leased_until
        leased = until is None or now < until - LEEWAY
        return self.sure and not self.settling and self.delivery.epoch.alive and leased


class Model:
    """What the groups of one channel must, may and may not be given."""

    def __init__(self, can: Capabilities, groups: tuple[str, ...], ordered: bool) -> None:
        """Begin with nothing sent."""
        self.can, self.ordered = can, ordered
        self.kept = can.durability is not Durability.NONE and can.groups is not Groups.NONE
        self.sent: dict[str, Sent] = {}
        self.fates: dict[str, dict[str, Fate]] = {group: defaultdict(Fate) for group in groups}
        self.held: list[Holding] = []
        self.buried: dict[str, Counter[str]] = {group: Counter() for group in groups}
        """Dead letters that are stored for certain."""
        self._unconfirmed: dict[int, list[Fate]] = defaultdict(list)
        self._seen: set[tuple[int, str]] = set()

    # -- told by the machine

    def sending(self, id: str, key: str, body: bytes, headers: dict[str, str]) -> None:
        """From now on it may be stored, and come."""
        self.sent[id] = Sent(len(self.sent), key, body, headers)

    def stored(self, id: str, due: float) -> None:
        """It is stored for certain, to be delivered when it is due."""
        self.sent[id].stored = True
        for fates in self.fates.values():
            fates[id].due = max(fates[id].due, due)

    def given(self, group: str, member: Any, delivery: Delivery, now: float, window: int) -> Holding:
        """It was handed over.

        Raises:
            Violation: It may not be, or not there, not now, or not like this.
        """
        id = delivery.headers.get("ductape-id", "")
        sent = self.sent.get(id)
        if sent is None:
            raise Violation(f"{delivery!r} was never sent")
        fate = self.fates[group][id]
        self._content(id, sent, delivery)
        if fate.acked and self.kept:
            raise Violation(f"{id} was acknowledged, and is delivered again")
        if now < fate.due:
            raise Violation(f"{id} comes {fate.due - now:.3f} s early")
        if not self.kept:
            self._once(id, member)
        else:
            self._alone(group, id, fate, delivery, now)
        if self.ordered:
            self._in_order(group, member, sent, now)
        holding = Holding(member, id, delivery, sent, fate)
        self.held = [one for one in self.held if one.member is not member or one.id != id]
        self.held.append(holding)
        fate.given += 1
        fate.last = holding
        out = sum(one.member is member and one.ours(now) for one in self.held)
        if out > window:
            raise Violation(f"{out} deliveries are out, and the window is {window}")
        return holding

    def of(self, member: object) -> list[Holding]:
        """Return what a member holds, oldest first."""
        return [one for one in self.held if one.member is member and not one.settling]

    def settling(self, holdings: list[Holding], verdict: Verdict, now: float = 0.0) -> list[bool | None]:
        """A settlement is under way: its effect may be there before its answer. Returns what held before."""
        for one in holdings:
            one.late = one.delivery.leased_until is not None and now >= one.delivery.leased_until - LEEWAY
        before = [one.fate.acked for one in holdings]
        for one in holdings:
            one.settling = True
            if verdict is Verdict.ACK and one.fate.acked is False:
                one.fate.acked = None
        return before

    def settled(
        self, one: Holding, verdict: Verdict, answer: AdapterError | None, due: float, before: bool | None
    ) -> None:
        """A settlement was answered."""
        one.settling = False
        if answer is None:
            self._drop(one)
            if verdict is not Verdict.ACK:
                self._seen.discard((hash(one.member), one.id))
            if verdict is Verdict.ACK:
                # Past its lease another may have been given it, and a settlement without an answer may have worked.
                one.fate.acked = True if self.can.confirmed_ack and not one.late and not one.tried else None
                if not one.late:  # what nobody confirms may be ignored then, and closing changes nothing about it
                    self._unconfirmed[id(one.member)].append(one.fate)
            elif one.fate.last is not one:
                one.fate.certain = False
            elif verdict is Verdict.RETRY:
                one.fate.due = max(one.fate.due, due)
            else:
                one.fate.returned += 1
            return
        if answer.fault is Fault.LOST:  # it is, or will be, with somebody else, unless an earlier answer was lost
            self._drop(one)
            if one.fate.acked is None and before is False:
                one.fate.acked = False
        else:
            one.sure, one.tried = False, True
        one.fate.certain = False

    def dropped(self, *, member: object = None, epoch: object = None) -> None:
        """What a member, or an epoch, held is given up; others may be given it from now on."""
        for one in list(self.held):
            if (one.member is member or one.delivery.epoch is epoch) and not one.settling:
                self._drop(one)

    def closed(self, member: object) -> None:
        """A member was closed in order: its acknowledgements are final."""
        for fate in self._unconfirmed.pop(id(member), ()):
            fate.acked = True

    def shaken(self, *, restarted: bool = False) -> None:
        """Connections broke, or the server was killed: what lives on neither leases nor disks is uncertain."""
        for one in self.held:
            one.sure = one.sure and self.can.lease is not None and not restarted
        for fates in self.fates.values():
            for fate in fates.values():
                fate.certain = False
        if restarted and self.can.durability is not Durability.STORED:
            self._lossy()

    def _lossy(self) -> None:
        """The server may have forgotten its last moment: messages, acknowledgements, delays."""
        for sent in self.sent.values():
            sent.stored = None
        for group, fates in self.fates.items():
            self.buried[group].clear()
            for fate in fates.values():
                fate.acked = None if fate.acked else fate.acked
                fate.due = 0.0

    # -- asked by the machine

    def owed(self, group: str) -> set[str]:
        """Return what the group must still be given."""
        if not self.kept:
            return set()
        return {id for id, sent in self.sent.items() if sent.stored and self.fates[group][id].acked is False}

    def last_due(self, group: str) -> float:
        """Return when the last of what is owed is due."""
        return max((self.fates[group][id].due for id in self.owed(group)), default=0.0)

    # -- rules

    def _drop(self, one: Holding) -> None:
        if one in self.held:
            self.held.remove(one)

    @staticmethod
    def _content(id: str, sent: Sent, delivery: Delivery) -> None:
        if delivery.body != sent.body or not sent.headers.items() <= dict(delivery.headers).items():
            raise Violation(f"{id} has another body, or other headers, than were sent")
        if delivery.key != sent.key:
            raise Violation(f"{id} has the key {delivery.key!r}, and was sent with {sent.key!r}")

    def _once(self, id: str, member: object) -> None:
        if (key := (hash(member), id)) in self._seen:
            raise Violation(f"{id} comes to one member twice, where nothing is kept")
        self._seen.add(key)

    def _alone(self, group: str, id: str, fate: Fate, delivery: Delivery, now: float) -> None:
        mine = self.fates[group]
        for one in self.held:
            if one.id == id and one.fate is mine[id] and one.ours(now):
                raise Violation(f"{id} is delivered while {one.member} has it, whose lease runs")
        if self.can.count is Count.EXACT and fate.certain:
            wanted = 1 + fate.given - fate.returned
            if delivery.count != wanted:
                raise Violation(f"{id} says that this is delivery {delivery.count}, and it is {wanted}")

    def _in_order(self, group: str, member: object, sent: Sent, now: float) -> None:
        fates = self.fates[group]
        mine = {one.id for one in self.held if one.member is member}
        for id, other in self.sent.items():
            before = other.key == sent.key and other.number < sent.number and other.stored
            if before and fates[id].acked is False and id not in mine:
                raise Violation(f"m{sent.number} overtakes {id}, which has the same key and is not done")
        keyed = [one for one in self.held if one.sent.key == sent.key and fates[one.id] is one.fate]
        for owner in {one.member for one in keyed if one.member is not member}:
            theirs = [one for one in keyed if one.member is owner]
            if all(one.ours(now) for one in theirs):
                raise Violation(f"m{sent.number} is delivered while {owner} has {theirs[0].id} of the same key")
