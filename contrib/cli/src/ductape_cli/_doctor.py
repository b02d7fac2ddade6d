"""`ductape doctor`: what is wrong, where, and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from cyclopts import Parameter

from ductape import Ductape, Topic
from ductape.adapter import AdapterError, Capabilities, Durability, Groups, Order
from ductape.errors import ConfigError, DuctapeError

from ._where import Where, above, absent, declared_envs, looking

__all__ = ["doctor", "unkept"]

OK, NOTE, WARN, FAIL = "ok", "note", "warning", "FAILED"
Row = dict[str, Any]


async def doctor(
    *,
    probe: Annotated[bool, Parameter(negative="")] = False,
    timeout: float = 10.0,
    where: Where = Where(),  # noqa: B008 - frozen
) -> int:
    """Look for what is wrong: catalog, adapters, configs, connections, rights, channels, groups, gaps.

    It creates nothing and takes no message. Secrets are not shown. The status is 1 if something failed.

    Args:
        probe: Only ask every broker whether it is there, and say nothing but what fails: for a startup or readiness
            probe.
        timeout: Seconds for each broker.
        where: Catalog, product and environment.
    """
    above("timeout", timeout)
    declared = where.client()
    brokers, slug = await declared.broker.fetch_all(), declared.env
    creates = {broker.tag for broker in brokers for env in broker.envs if env.create and env.slug == slug}
    async with await looking(declared) as verifying:
        engine = verifying.engine
        assert engine is not None  # open
        rows = [row async for row in _findings(verifying, creates, timeout, probe=probe)]
    await engine.bounds.ended()  # a connection that was given up may come yet, and is closed
    if not rows:
        text = f"no broker is declared for environment {slug!r}: nothing was looked at. {declared_envs(brokers)}"
        raise ConfigError("OPTION_INVALID", text, option="env")
    failed = [row for row in rows if row["result"] == FAIL]
    if failed or not probe:
        where.out.table(failed if probe else rows, empty="")
    return 1 if failed else 0


async def _findings(ductape: Ductape, creates: set[str], timeout: float, *, probe: bool) -> AsyncIterator[Row]:
    for broker in await ductape.broker.fetch_all():
        if not any(env.slug == ductape.env for env in broker.envs):
            continue
        row = await _connected(ductape, broker.tag, timeout)
        yield row
        if row["result"] == FAIL or probe:
            continue
        for topic in await ductape.broker.topic.fetch_all(broker.tag):
            for found in await _topic(ductape, topic, timeout, creates=broker.tag in creates):
                yield found


async def _connected(ductape: Ductape, tag: str, timeout: float) -> Row:
    engine = ductape.engine
    assert engine is not None  # open
    what, result, text = f"broker {tag}", OK, ""
    try:
        link = await engine.atlas.link(tag)
        what = f"broker {tag} ({link.provider})"
        async with asyncio.timeout(timeout):
            await link.check()
        text = "connected"
    except TimeoutError:
        result, text = FAIL, f"no answer within {timeout:g} s. Is the server there, and is the port right?"
    except AdapterError as error:
        result, text = FAIL, f"{error.text}.{error.advice}"
    except DuctapeError as error:
        result, text = FAIL, str(error)
    return {"what": what, "result": result, "finding": text}


async def _topic(ductape: Ductape, topic: Topic, timeout: float, *, creates: bool) -> list[Row]:
    engine = ductape.engine
    assert engine is not None  # open
    what = f"topic {topic.tag}"

    def one(result: str, finding: str) -> list[Row]:
        return [{"what": what, "result": result, "finding": finding}]

    try:
        place = await engine.atlas.place(topic.tag)
        if refused := unkept(topic, place.link.adapter.capabilities, place.link.provider):
            return one(FAIL, refused)
        async with asyncio.timeout(timeout):
            _, can = await place.link.prepare(place.channel, place.groups)
    except TimeoutError:
        return one(FAIL, f"no answer within {timeout:g} s")
    except AdapterError as error:
        missing = absent(error) if creates else ""
        later = f"{missing} as yet: the first publish or subscription creates it"
        return one(NOTE, later) if missing else one(FAIL, f"{error.text}.{error.advice}")
    except DuctapeError as error:
        return one(FAIL, str(error))
    if refused := unkept(topic, can, place.link.provider):
        return one(FAIL, refused)
    gaps = _gaps(can, place.groups)
    rows: list[Row] = [{"what": what, "result": WARN, "finding": gap} for gap in gaps]
    return rows or one(OK, f"channel {place.channel.name}, groups {', '.join(place.groups)}")


def unkept(topic: Topic, can: Capabilities, provider: str) -> str:
    """Say that a topic is declared with an order that is not kept, so that subscriptions are refused; else nothing."""
    if Order[topic.order.upper()] <= can.order:
        return ""
    keeps = "no order" if can.order is Order.NONE else f"order={can.order.name.lower()!r} at most"
    return f"declared with order={topic.order!r}, and {provider} keeps {keeps}: every subscription is refused"


def _gaps(can: Capabilities, groups: tuple[str, ...]) -> list[str]:
    """Say what the topic asks for, or what people expect, and the channel cannot do."""
    found = []
    if len(groups) > 1 and can.groups is not Groups.MANY:
        found.append(f"declares {len(groups)} groups, and the channel has {can.groups.name.lower()}")
    if can.durability is Durability.NONE:
        found.append("keeps nothing: a message that nobody is listening for is gone")
    elif can.durability is Durability.BUFFERED:
        found.append("a confirmed message can be lost when the server is killed: see the server's settings")
    return found
