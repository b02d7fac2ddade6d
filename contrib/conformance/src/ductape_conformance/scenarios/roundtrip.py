"""What is sent is what arrives."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator

from ductape.adapter import AdapterError, Delivery, Durability, Fault, Outgoing, Sender, Stored
from ductape_conformance._scenario import NotApplicable, scenario
from ductape_conformance._stage import Stage


@scenario("roundtrip.body-headers-and-key")
async def basic(stage: Stage) -> None:
    """A record arrives once, with its body, all of its headers and its key."""
    member = await stage.member()
    headers = {"content-type": "application/json", "trace": "abc"}
    await stage.send(stage.record("m1", "customer", body=b'{"n": 1}', headers=headers))
    (one,) = await member.take(1)
    await member.ack(one)
    assert one.body == b'{"n": 1}'
    assert dict(one.headers) == {"ductape-id": "m1", **headers}
    assert one.key == "customer"
    await member.silence(1.0)


@scenario("roundtrip.every-byte-of-a-body")
async def bodies(stage: Stage) -> None:
    """Bodies arrive byte for byte: empty ones, all 256 values, broken UTF-8, and 100 KB."""
    most = min(stage.can.max_body or 200_000, (stage.can.max_message or 200_000) - 200, 100_000)
    wanted = [b"", bytes(range(256)), b"\xff\xfe\x00", b"\r\n\r\n", (b"0123456789" * 10_000)[:most]]
    wanted = [body for body in wanted if len(body) <= most]
    member = await stage.member()
    await stage.send(*(stage.record(f"m{n}", body=body) for n, body in enumerate(wanted)))
    got = {one.headers["ductape-id"]: one for one in await member.take(len(wanted))}
    await member.ack(*got.values())
    assert [got[f"m{n}"].body for n in range(len(wanted))] == wanted
    assert sorted(stage.ids()) == sorted(got), "each once"


@scenario("roundtrip.every-kind-of-header")
async def headers(stage: Stage) -> None:
    """Header values arrive unchanged: empty, spaces, punctuation, other alphabets, and 1,000 bytes."""
    room = min(stage.can.max_header or 1000, 1000)
    values = {
        "empty": "",
        "spaces": "  two  ",
        "marks": "a=b;c:d,\"e\"'f'&g%20{}[]",
        "letters": "žluťoučký 日本語 🙂",
        "Upper-Case": "Kept",
        "long": "x" * room,
    }
    if stage.can.max_message is not None and stage.can.max_message < 3000:
        del values["long"]
    member = await stage.member()
    for number, (name, value) in enumerate(values.items()):
        await stage.send(stage.record(f"m{number}", headers={name: value}))
    got = await member.take(len(values))
    await member.ack(*got)
    for one in got:
        name = list(values)[int(one.headers["ductape-id"][1:])]
        assert {key.casefold(): text for key, text in one.headers.items()}[name.casefold()] == values[name]


@scenario("roundtrip.channels-do-not-cross")
async def apart(stage: Stage) -> None:
    """What is stored on one channel is delivered there and nowhere else."""
    first = await stage.member("a")
    second = await stage.member("b", channel=stage.channel(name="orders.more"))
    await stage.send("n1", channel=stage.channel(name="orders.more"))
    await first.silence(0.5)
    await stage.send("m1", "m2")
    await first.ack(*await first.take(2))
    await second.ack(*await second.take(1))
    await first.silence(0.5)
    await second.silence(0.5)
    assert sorted(stage.ids("a")) == ["m1", "m2"]
    assert stage.ids("b") == ["n1"]


@scenario("roundtrip.facts-of-a-delivery")
async def facts(stage: Stage) -> None:
    """A delivery says when it was stored, until when it is leased and how often it came, and says nothing wrong."""
    member = await stage.member()
    before = stage.clock.time()
    await stage.send("m1")
    (one,) = await member.take(1)
    now, clock = stage.clock.time(), stage.clock.now()
    assert one.epoch.alive
    assert one.epoch.accepting
    assert not one.error
    assert one.stored_at is None or before - 2.0 <= one.stored_at <= now + 2.0
    assert one.count in (None, 1)
    assert "m1" not in repr(one) or one.body == b"", "a repr shows no payload"
    lease = stage.can.lease
    if lease is not None:
        assert one.leased_until is not None
        assert clock < one.leased_until <= clock + lease
    await member.ack(one)


@scenario("send.one-answer-each")
async def answers(stage: Stage) -> None:
    """A call with many records stores each of them once and answers each, in order; an empty one is harmless."""
    member = await stage.member(window=1000)
    sender = await stage.sender()
    assert list(await sender.send([])) == []
    number = min(sender.limits.records, 300)
    stored = await stage.send(*(f"m{n}" for n in range(number)))
    positions = [one.position for one in stored if one.position]
    if stage.can.durability is not Durability.NONE:
        assert len(set(positions)) == len(positions), "two records are nowhere at one position"
    await member.ack(*await member.take(number))
    await member.silence(0.5)
    assert sorted(stage.ids()) == sorted(f"m{n}" for n in range(number))


@scenario("send.calls-may-overlap")
async def overlapping(stage: Stage) -> None:
    """As many calls as the limits allow run at a time, on one sender, and mix nothing up."""
    member = await stage.member(window=1000)
    sender = await stage.sender()
    rounds = 3
    for turn in range(rounds):
        calls = [
            sender.send([stage.record(f"m{turn}.{call}.{n}", f"k{call}") for n in range(10)])
            for call in range(sender.limits.calls)
        ]
        for found in await asyncio.gather(*calls):
            assert all(isinstance(one, Stored) for one in found)
    got: list[Delivery] = []
    while len(got) < rounds * sender.limits.calls * 10:  # a broker that locks keys gives no more before it is settled
        some = await member.take(1)
        await member.ack(*some)
        got += some
    wanted = itertools.product(range(rounds), range(sender.limits.calls), range(10))
    assert sorted(one.body for one in got) == sorted(b"m%d.%d.%d" % each for each in wanted)


@scenario("send.returned-means-stored", needs="kept")
async def stored(stage: Stage) -> None:
    """Once `send` answered, closing everything loses nothing."""
    await stage.declare("billing")
    connection = await stage.connect()
    sender = await stage.sender(connection=connection)
    answers = await sender.send([stage.record(f"m{n}") for n in range(20)])
    assert all(isinstance(one, Stored) for one in answers)
    await sender.close()
    await connection.close()
    member = await stage.member()
    await member.ack(*await member.take(20))
    assert sorted(stage.ids()) == sorted(f"m{n}" for n in range(20))


@scenario("send.delay-is-kept", needs="send-delay kept")
async def delayed(stage: Stage) -> None:
    """A delayed record is never delivered early, soon after it is due, and holds up nothing behind it."""
    member = await stage.member()
    began = stage.clock.now()
    delay = min(2.0, stage.can.send_delay)
    await stage.send(stage.record("later", delay=delay), "now")
    await member.ack(*await member.take(1))
    assert stage.ids() == ["now"]
    await member.ack(*await member.take(1, within=delay + stage.soon))
    assert [one.id for one in stage.log] == ["now", "later"]
    assert delay <= stage.log[1].at - began <= delay + stage.soon


@scenario("send.too-large-is-refused-alone", needs="max-message")
async def large(stage: Stage) -> None:
    """A record above the declared size is answered MESSAGE, or arrives whole; the others of its call are stored."""
    member = await stage.member()
    most = min(size for size in (stage.can.max_body, stage.can.max_message) if size is not None)
    if most > 64 << 20:
        raise NotApplicable(f"bodies of {most} bytes are not sent in a test")
    sender = await stage.sender()
    records = [stage.record("m1"), stage.record("big", body=b"x" * (most + 1)), stage.record("m2")]
    first, refused, last = await sender.send(records)
    stored = 3 if isinstance(refused, Stored) else 2
    assert isinstance(refused, Stored) or refused.fault is Fault.MESSAGE
    assert "xxxx" not in str(refused), "an error shows no payload"
    others = [one for one in (first, last) if isinstance(one, AdapterError)]
    assert all(one.fault is Fault.TRANSIENT for one in others), "there is nothing wrong with these"
    again = [one for one, answer in ((records[0], first), (records[2], last)) if isinstance(answer, AdapterError)]
    if again:  # an adapter may be unable to tell them apart once, never twice
        assert all(isinstance(one, Stored) for one in await sender.send(again))
    got = await member.take(stored)
    await member.ack(*got)
    assert {one.body for one in got} == {one.body for one in records if stored == 3 or one.id != "big"}


@scenario("send.nothing-of-a-key-overtakes-a-failure", needs="order max-message")
async def behind(stage: Stage) -> None:
    """After a record of a key failed, no later record of that key in the call is stored; those are TRANSIENT."""
    channel = stage.channel(order=stage.can.order.KEY)
    member = await stage.member(channel=channel)
    can = stage.main.capabilities(channel) or stage.can  # what is declared is known better
    most = min(size for size in (can.max_body, can.max_message) if size is not None)
    if most > 64 << 20:
        raise NotApplicable(f"bodies of {most} bytes are not sent in a test")
    sender = await stage.sender(channel)
    records = [
        stage.record("k1", "k"),
        stage.record("k2", "k", body=b"x" * (most + 1)),
        stage.record("k3", "k"),
        stage.record("j1", "j"),
    ]
    answers = await sender.send(records)
    faults = [one.fault if isinstance(one, AdapterError) else None for one in answers]
    assert faults == [None, Fault.MESSAGE, Fault.TRANSIENT, None]
    await member.ack(*await member.take(2))
    await member.silence(0.5)
    assert sorted(stage.ids()) == ["j1", "k1"]


@scenario("send.errors-show-nothing-of-the-message")
async def silent(stage: Stage) -> None:
    """However a record fails, the error, all of its causes and the log show nothing of its body, key and headers."""
    mark = "marked7f3a9c"
    log = logging.getLogger("ductape")
    noted, level = _Noted(), log.level
    log.addHandler(noted)
    log.setLevel(logging.DEBUG)
    refused: list[AdapterError] = []
    try:
        for fields in _beyond(stage, mark):
            sender = await stage.sender()
            refused += await _refused(sender, stage.record("m1", f"{mark}-key", **fields))
        last = stage.record("m2", f"{mark}-key", body=mark.encode(), headers={"session": mark})
        connection = await stage.connect()
        sender = await stage.sender(connection=connection)
        if "cut" in stage.harness.hooks():
            await stage.harness.cut()
            refused += await _refused(sender, last)
        await connection.close()
        refused += await _refused(sender, last)
    finally:
        log.removeHandler(noted)
        log.setLevel(level)
    assert refused, "what was opened from a closed connection sends nothing"
    shown = [text for error in refused for text in _texts(error) if mark in text]
    assert shown == [], "payloads are not ours to show"
    assert [text for text in noted.texts if mark in text] == []


class _Noted(logging.Handler):
    """Keeps what is logged, as a file would."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


def _beyond(stage: Stage, mark: str) -> Iterator[dict[str, object]]:
    """Yield the fields of records that are larger than what is declared, where that is of a size for tests."""
    can = stage.can
    sizes = [size for size in (can.max_body, can.max_message) if size is not None]
    if sizes and min(sizes) <= 64 << 20:
        yield {"body": mark.encode() * (min(sizes) // len(mark) + 1)}
    if can.max_header is not None and can.max_header <= 64 << 20:
        yield {"headers": {"long": mark * (can.max_header // len(mark) + 1)}}
    if can.max_headers is not None and can.max_headers <= 10_000:
        yield {"headers": {f"h{number}": mark for number in range(can.max_headers + 1)}}


async def _refused(sender: Sender, record: Outgoing) -> list[AdapterError]:
    try:
        return [one for one in await sender.send([record]) if isinstance(one, AdapterError)]
    except AdapterError as error:
        return [error]


def _texts(error: BaseException | None) -> Iterator[str]:
    """Yield all that a traceback shows of an error: it, what caused it, and their notes."""
    if error is not None:
        yield str(error)
        yield repr(error)
        yield from getattr(error, "__notes__", ())
        yield from _texts(error.__cause__)
        yield from _texts(error.__context__)
