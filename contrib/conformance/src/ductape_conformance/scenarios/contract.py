"""What an adapter is before anything is sent: found, described, opened."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from ductape import Registry
from ductape.adapter import ADAPTER_API, Adapter, AdapterError, Fault, Purpose
from ductape_conformance._rules import contradictions, exceeds
from ductape_conformance._scenario import NotApplicable, scenario
from ductape_conformance._stage import Stage


@scenario("contract.found-by-its-entry-point")
async def found(stage: Stage) -> None:
    """The adapter is found by the name that users write, whatever its case, and speaks this version of the contract."""
    name = stage.harness.adapter
    if not name:
        raise NotApplicable("the harness names no entry point")
    for spelled in (name, name.upper(), name.replace("_", "-")):
        adapter = Registry().adapter(spelled, where="the kit")
        assert isinstance(adapter, Adapter)
        assert type(adapter).api == ADAPTER_API
        assert Registry().adapter(spelled, where="the kit") is not adapter, "each client has an adapter of its own"


@scenario("contract.importing-loads-no-client")
async def importing(stage: Stage) -> None:
    """Finding and describing the adapter imports nothing of its client: an app that uses another broker never pays."""
    name, client = stage.harness.adapter, stage.harness.client
    if not name:
        raise NotApplicable("the harness names no entry point")
    if not client:
        raise NotApplicable("no client library is named", declared=True)
    try:
        files = distribution(client).files or ()
    except PackageNotFoundError:
        files = ()
    packages = {".".join(one.parts[:-1]) for one in files if one.name == "__init__.py"}
    if not packages:
        raise NotApplicable(f"{client} is not installed here as a distribution that lists its packages")
    code = "import sys, ductape; ductape.Registry().adapter(sys.argv[1], where='the kit'); print(*sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, name, stdout=asyncio.subprocess.PIPE)
    loaded, _ = await process.communicate()
    assert process.returncode == 0
    assert packages & set(loaded.decode().split()) == set(), "it is imported when something connects, not before"


@scenario("contract.config-is-frozen-and-by-keyword")
async def config(stage: Stage) -> None:
    """The config type is a frozen, keyword-only Struct with names in snake_case, so that any spelling can be read."""
    struct = stage.adapter.config.__struct_config__
    assert struct.frozen
    assert all(name == name.lower() for name in stage.adapter.config.__struct_fields__)
    with pytest.raises(TypeError):
        stage.adapter.config("positional")


@scenario("contract.capabilities-do-not-contradict-themselves")
async def consistent(stage: Stage) -> None:
    """What the class claims at most, and what a channel claims here, can be true together."""
    assert contradictions(stage.adapter.capabilities) == []
    assert exceeds(stage.can, stage.adapter.capabilities) == [], "the class states the most it can"
    assert stage.main.capabilities(stage.channel()) in (None, stage.can), "the same answer whenever it is asked"


@scenario("contract.capabilities-are-settled-by-declaring")
async def settled(stage: Stage) -> None:
    """Once a channel is declared its capabilities are known: no use of it changes them, nor another connection."""
    connection, other = await stage.connect(), await stage.connect()
    grouped = stage.can.groups is not stage.can.groups.NONE
    for purpose in Purpose if grouped else (Purpose.EVENTS,):
        channel = stage.channel(purpose=purpose)
        await connection.declare(channel)
        told = connection.capabilities(channel)
        sender = await connection.sender(channel)
        await sender.send([stage.record("m1")])
        await sender.close()
        member = await stage.member(channel=channel, connection=connection)
        await member.close()
        assert connection.capabilities(channel) == told, "what the kernel asked for when it declared still holds"
        await other.declare(channel)
        assert other.capabilities(channel) == told, "every member is told the same"


@scenario("contract.native-objects-are-typed")
async def native(stage: Stage) -> None:
    """Asking a connection for a native object that it has not is a TypeError that names the type."""

    class Nothing:
        pass

    with pytest.raises(TypeError, match="Nothing"):
        stage.main.unwrap(Nothing)


@scenario("contract.check-disturbs-nothing", needs="groups")
async def check(stage: Stage) -> None:
    """A check is a round trip that takes no message and changes nothing."""
    member = await stage.member()
    await stage.send("m1")
    for _ in range(3):
        await stage.main.check()
    (only,) = await member.take(1)
    await member.ack(only)
    assert stage.ids() == ["m1"]


@scenario("contract.a-missing-channel-is-a-config-fault", needs="groups")
async def missing(stage: Stage) -> None:
    """Where nothing may be created, declaring a channel that is not there fails with CONFIG, at once."""
    connection = await stage.connect(create=False)
    with pytest.raises(AdapterError) as refused:
        await connection.declare(stage.channel(name="never-made"))
    assert refused.value.fault is Fault.CONFIG
    await stage.declare("billing")
    await connection.declare(stage.channel())


@scenario("contract.declaring-again-changes-nothing", needs="kept")
async def idempotent(stage: Stage) -> None:
    """Declaring a channel and group that exist disturbs neither what waits nor what is out."""
    member = await stage.member()
    await stage.send("m1", "m2")
    out = await member.take(1)
    await stage.declare("billing", "billing")
    out += await member.take(1)
    await member.ack(*out)
    await stage.declare("billing")
    await member.silence(1.0)
    assert stage.ids() == ["m1", "m2"] or sorted(stage.ids()) == ["m1", "m2"]
