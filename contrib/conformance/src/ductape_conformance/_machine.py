"""Plays a history of steps against an adapter, and holds what happens against the model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ductape.adapter import AdapterError, Fault, Purpose, Stored, Verdict

from . import _steps as s
from ._ground import quietly
from ._model import Violation
from ._stage import Stage
from ._table import Seat, Table
from ._tap import bare

__all__ = ["Machine"]


class Machine(Table):
    """What each step does."""

    def __init__(self, stage: Stage, ordered: bool) -> None:
        """Set up; `play` begins."""
        super().__init__(stage, ordered)
        self._acts: dict[type, Callable[[Any], Awaitable[None]]] = {
            s.Send: self._send,
            s.Take: self._take,
            s.Settle: self._settle,
            s.Bury: self._bury,
            s.Extend: self._extend,
            s.Wait: self._wait,
            s.Stop: self._stop,
            s.Close: self._close,
            s.Crash: self._crash,
            s.Cut: self._fault,
            s.Stall: self._fault,
            s.Restart: self._fault,
            s.Both: self._both,
        }

    async def play(self, history: Sequence[s.Step]) -> None:
        """Play a history, then heal everything, and see that nothing is owed.

        Raises:
            Violation: With the whole story.
        """
        try:
            for group in self.groups:
                await self.stage.main.declare(self.of(group))
            for step in history:
                await self._acts[type(step)](step)
            await self._reckon()
        except BaseException as error:
            story = "\n".join(f"  {line}" for line in self.story)
            if isinstance(error, Violation):
                raise Violation(f"{error}\n{story}") from None
            error.add_note(story)
            raise

    async def _both(self, step: s.Both) -> None:
        before = len(self.story)
        await asyncio.gather(*(self._acts[type(one)](one) for one in step))
        for one in step:
            if isinstance(one, s.Cut | s.Restart):
                self.model.shaken(restarted=isinstance(one, s.Restart))
        self.story[before:] = [f"{line}  (at a time)" for line in self.story[before:]]

    async def _send(self, step: s.Send) -> None:
        can = self.stage.can
        delay = min(1.0, can.send_delay) if step.delayed and not self.ordered else 0.0
        records = []
        for key in step.keys:
            id = f"m{self._number}"
            self._number += 1
            records.append(self.stage.record(id, f"k{key}", delay=delay))
            self.model.sending(id, f"k{key}", records[-1].body, dict(records[-1].headers))
        self.tell("send", *(f"{one.id}({one.key})" for one in records), f"delayed {delay:g} s" if delay else "")
        due = self.clock.now() + delay if delay else 0.0
        for record, answer in zip(records, await self.store(self.channel, records), strict=True):
            if isinstance(answer, Stored):
                self.model.stored(record.id, due)
            else:
                self.tell(record.id, "answered", answer)

    async def _take(self, step: s.Take) -> None:
        seat = await self.seat(step.slot)
        wait = 0.3 if step.wait else 0.0
        async with self.lock((seat, "receive")):
            if seat.gone:
                return
            found = await self.call("receive", seat.member.receiver.receive(step.limit, wait), wait + 10.0)
            await self.taken(seat, found, step.limit)

    async def _settle(self, step: s.Settle) -> None:
        if (seat := self.seats.get(step.slot)) is None or not (held := self.model.of(seat)):
            return
        verdict = step.verdict
        if verdict is Verdict.RETRY and (not self.stage.can.retry_delay or self.ordered):
            verdict = Verdict.RELEASE
        first = step.skip % len(held)
        chosen = held[first : first + step.number]
        if self.ordered:  # the kernel keeps to the order of a key: its head is done, or all of it goes back
            keyed = [one for one in held if one.sent.key == chosen[0].sent.key]
            chosen = keyed[:1] if verdict is Verdict.ACK else keyed
        delay = 0.0
        if verdict is Verdict.RETRY:
            delay = min(self.stage.can.retry_delay, max(1.0, self.stage.can.retry_step) if step.delayed else 0.0)
        await self.decide(seat, chosen, verdict, delay)

    async def _bury(self, step: s.Bury) -> None:
        if (seat := self.seats.get(step.slot)) is None or not (held := self.model.of(seat)) or not self.model.kept:
            return
        one, channel = held[0], self.of(seat.group, Purpose.DEAD)
        record = self.stage.record(one.id, one.sent.key, dedup=f"{one.id}~dead", origin=one.delivery)
        (answer,) = await self.store(channel, [record])
        self.tell(seat, "buries", one.id, "" if isinstance(answer, Stored) else answer)
        if isinstance(answer, Stored):
            self.model.buried[seat.group][one.id] += 1
            await self.decide(seat, [one], Verdict.ACK)

    async def _extend(self, step: s.Extend) -> None:
        seat, can = self.seats.get(step.slot), self.stage.can
        if seat is None or can.lease is None or (can.lease_total or 0.0) <= can.lease:
            return
        async with self.lock((seat, "settle")):
            held = [one for one in self.model.of(seat) if one.delivery.epoch.alive]
            if seat.gone or not held:
                return
            answers = await self.call("extend", seat.member.receiver.extend([one.delivery for one in held]), 10.0)
            self.tell(seat, "extends", *(one.id for one in held), answers if isinstance(answers, AdapterError) else "")
            if isinstance(answers, AdapterError):
                return
            for one, answer in zip(held, answers, strict=True):
                if answer is not None and answer.fault is Fault.LOST and one in self.model.held:
                    self.tell(one.id, "is lost to", seat)
                    self.model.held.remove(one)
                    one.delivery.epoch.settled()

    async def _wait(self, step: s.Wait) -> None:
        seconds = step.leases * min(self.stage.can.lease or 1.0, self.stage.soon)
        self.tell(f"{seconds:g} s pass")
        await self.clock.sleep(seconds)

    async def _stop(self, step: s.Stop) -> None:
        if (seat := self.seats.get(step.slot)) is not None:
            self.tell(seat, "is asked to stop")
            await self.call("stop", seat.member.receiver.stop(), 5.0)

    async def _close(self, step: s.Close) -> None:
        if (seat := self.seats.pop(step.slot, None)) is None:
            return
        async with self.lock((seat, "settle")):
            if seat.gone:
                return
            seat.gone = True
            self.tell(seat, "closes")
            self.unsure(seat, counts=False)
            ended = await self.call("close", seat.member.receiver.close(), 5.0)
            self.give_up(member=seat)
            if ended is None:
                self.model.closed(seat)
            await quietly(seat.member.connection)

    async def _crash(self, step: s.Crash) -> None:
        hooked = "crash" in self.stage.harness.hooks()
        seat = self.seats.get(step.slot)
        if seat is None or not (hooked or self.stage.can.lease is not None):
            return
        async with self.lock((seat, "receive")), self.lock((seat, "settle")):
            self.unseat(seat)
            if seat.gone:
                return
            seat.gone = True
            self.tell(seat, "crashes")
            self.unsure(seat)
            if hooked:
                await self.stage.harness.crash(bare(seat.member.connection))
            self.give_up(member=seat)

    async def _fault(self, step: s.Cut | s.Stall | s.Restart) -> None:
        harness = self.stage.harness
        needs = {s.Cut: ("cut",), s.Stall: ("stall", "resume"), s.Restart: ("kill", "restart")}[type(step)]
        forgets = isinstance(step, s.Restart) and "faults.stored-survives-a-kill" in harness.quirks
        if needs[0] not in harness.hooks() or forgets:
            return
        self.tell(type(step).__name__.lower())
        restarted = isinstance(step, s.Restart)
        if not isinstance(step, s.Stall):
            self.model.shaken(restarted=restarted)
        await getattr(harness, needs[0])()
        if len(needs) > 1:
            await self.clock.sleep(0.5 if isinstance(step, s.Stall) else 0.1)
            await getattr(harness, needs[1])()
        if not isinstance(step, s.Stall):
            self.model.shaken(restarted=restarted)

    # -- the end

    async def _reckon(self) -> None:
        """Close everybody; a fresh member of each group must be given all that is owed, and nothing else."""
        for slot in list(self.seats):
            await self._close(s.Close(slot))
        for group in self.groups if self.model.kept else ():
            self.tell("a last member of", group, "must be given", *sorted(self.model.owed(group)) or ["nothing"])
            member = await self.stage.patiently(
                lambda group=group: self.stage.member("last", group, channel=self.of(group), alone=True)  # type: ignore[misc]
            )
            seat = Seat(self, "last", group, member, 100)
            await self._drain(seat)
            if buried := self.model.buried[group]:
                await self._exhume(group, set(buried))

    async def _drain(self, seat: Seat) -> None:
        wait = 2 * self.stage.soon + self.stage.patience
        end = max(self.clock.now(), self.model.last_due(seat.group)) + wait
        quiet = 0
        while quiet < 2:
            owed = self.model.owed(seat.group)
            if owed and self.clock.now() > end:
                raise Violation(f"{', '.join(sorted(owed))} never came again to {seat.group}")
            found = await self.call("receive", seat.member.receiver.receive(100, 0.25), 10.25)
            await self.taken(seat, found, 100)
            if seat.gone:
                raise Violation("a fresh receiver is lost, and nothing is wrong with the server")
            await self.decide(seat, self.model.of(seat), Verdict.ACK)
            quiet = 0 if owed or found else quiet + 1

    async def _exhume(self, group: str, wanted: set[str]) -> None:
        reader = await self.stage.member(
            "reader", group, channel=self.of(group, Purpose.DEAD), alone=True, start="earliest"
        )
        end = self.clock.now() + self.stage.patience
        seen: set[str] = set()
        while not seen >= wanted:
            if self.clock.now() > end:
                raise Violation(f"{', '.join(sorted(wanted - seen))} were buried, and are no dead letters of {group}")
            for one in await reader.receive(100, 0.25):
                seen.add(one.headers.get("ductape-id", "?"))
                await reader.ack(one)
