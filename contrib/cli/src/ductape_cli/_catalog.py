"""`ductape brokers`, `topics` and `check`: what a catalog says."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from ductape import Ductape, Topic
from ductape.errors import CapabilityError, ConfigError, DuctapeError

from ._doctor import unkept
from ._out import Out
from ._where import Json, Where, declared_envs, told

__all__ = ["brokers", "check", "topics"]


async def brokers(*, where: Where = Where()) -> int:  # noqa: B008 - frozen
    """List the brokers that the catalog declares, with a line for every environment.

    Args:
        where: Catalog, product and environment.
    """
    rows = [
        {"broker": broker.tag, "env": env.slug, "type": env.type, "config": sorted(env.config), "create": env.create}
        for broker in await where.client().broker.fetch_all()
        for env in broker.envs
    ]
    where.out.table(rows, empty="no broker is declared")
    return 0


async def topics(broker: str | None = None, *, where: Where = Where()) -> int:  # noqa: B008 - frozen
    """List the topics that the catalog declares.

    Args:
        broker: Only those of this broker.
        where: Catalog, product and environment.
    """
    rows = [
        {"topic": topic.tag, "name": topic.name, "order": topic.order, "groups": topic.groups, "sample": topic.sample}
        for topic in await where.client().broker.topic.fetch_all(broker)
    ]
    where.out.table(rows, empty="no topic is declared")
    return 0


async def check(
    manifest: Path | None = None, *, env: str | None = None, product: str | None = None, json: Json = False
) -> int:
    """Check a manifest without connecting: tags, adapters, every environment's config, and what topics ask for.

    Args:
        manifest: The file; without it, the one that other commands take.
        env: Only this environment: variables of the others may be unset here.
        product: The product, if the file does not name it.
        json: Write JSON, for programs.
    """
    manifest = manifest or Where().path()
    try:
        named, slugs = told(manifest)
    except (OSError, ValueError, ImportError):  # its store tells what is wrong with the file
        named, slugs = None, set()
    slug = env or next(iter(sorted(slugs)), "env")
    ductape = Ductape(product=product or named or "product", env=slug, catalog=manifest)
    declared = await ductape.broker.fetch_all()
    looked = [(broker.tag, each) for broker in declared for each in broker.envs if env in (None, each.slug)]
    if not looked:
        of = f"no broker of {manifest} has environment {env!r}" if env else f"{manifest} declares no broker"
        text = f"{of}: nothing was looked at. {declared_envs(declared)}"
        raise ConfigError("OPTION_INVALID", text, option="env")
    rows: list[dict[str, Any]] = []
    async with ductape:
        engine = ductape.engine
        assert engine is not None  # open
        for tag, each in looked:
            rows.append(await _row(tag, each.slug, each.type, engine.atlas.link(tag, each.slug)))
        fine = {(row["what"], row["env"]) for row in rows if row["ok"]}
        for topic in await ductape.broker.topic.fetch_all():
            rows += [
                await _row(topic.tag, each.slug, "", _kept(engine.atlas.place(topic.tag, each.slug), topic))
                for tag, each in looked
                if tag == topic.broker and (tag, each.slug) in fine
            ]
    Out(json=json).table(rows, empty="")
    return 0 if all(row["ok"] for row in rows) else 1


async def _kept(placing: Awaitable[Any], topic: Topic) -> None:
    """Refuse a topic whose order its provider never keeps."""
    link = (await placing).link
    if refused := unkept(topic, link.adapter.capabilities, link.provider):
        raise CapabilityError("CAPABILITY_MISSING", f"topic {topic.tag!r} is {refused}.", capability="order")


async def _row(what: str, env: str, kind: str, looked: Any) -> dict[str, Any]:
    problem = ""
    try:
        await looked
    except DuctapeError as error:
        problem = str(error)
    return {"what": what, "env": env, "type": kind, "ok": not problem, "problem": problem}
