"""`ductape doctor`: what is wrong, where, and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from cyclopts import Parameter

from ductape import Ductape, Topic
from ductape.adapter import AdapterError, Capabilities, Durability, Fault, Groups
from ductape.errors import ConfigError, DuctapeError

from ._where import Where, above, declared_envs, looking

__all__ = ["doctor"]

OK, WARN, FAIL = "ok", "warning", "FAILED"
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
        rows = [row async for row in _findings(verifying, creates, timeout, probe=probe)]
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
        hint = ". Is the server there, and is the address right?" if error.fault is Fault.TRANSIENT else ""
        result, text = FAIL, f"{_said(error)}{hint}"
    except DuctapeError as error:
        result, text = FAIL, str(error)
    return {"what": what, "result": result, "finding": text}


async def _topic(ductape: Ductape, topic: Topic, timeout: float, *, creates: bool) -> list[Row]:
    engine = ductape.engine
    assert engine is not None  # open
    what = f"topic {topic.tag}"
    try:
        place = await engine.atlas.place(topic.tag)
        async with asyncio.timeout(timeout):
            _, can = await place.link.prepare(place.channel, place.groups)
    except TimeoutError:
        return [{"what": what, "result": FAIL, "finding": f"no answer within {timeout:g} s"}]
    except AdapterError as error:
        later = creates and error.fault is Fault.CONFIG
        hint = ": the first publish or subscription creates it" if later else ""
        return [{"what": what, "result": WARN if later else FAIL, "finding": f"{_said(error)}{hint}"}]
    except DuctapeError as error:
        return [{"what": what, "result": FAIL, "finding": str(error)}]
    gaps = list(_gaps(topic, can, place.groups))
    found = f"channel {place.channel.name}, groups {', '.join(place.groups)}"
    rows: list[Row] = [{"what": what, "result": WARN, "finding": gap} for gap in gaps]
    return rows or [{"what": what, "result": OK, "finding": found}]


def _said(error: AdapterError) -> str:
    """What the adapter said, without the code that all of its errors have."""
    return str(error).removeprefix(f"{error.code}: ")


def _gaps(topic: Topic, can: Capabilities, groups: tuple[str, ...]) -> list[str]:
    """Say what the topic asks for, or what people expect, and the channel cannot do."""
    found = []
    if topic.order.upper() != "NONE" and can.order.name.lower() == "none":
        found.append(f"declared with order={topic.order}, which this provider does not keep: subscriptions are refused")
    if len(groups) > 1 and can.groups is not Groups.MANY:
        found.append(f"declares {len(groups)} groups, and the channel has {can.groups.name.lower()}")
    if can.durability is Durability.NONE:
        found.append("keeps nothing: a message that nobody is listening for is gone")
    elif can.durability is Durability.BUFFERED:
        found.append("a confirmed message can be lost when the server is killed: see the server's settings")
    return found
