"""What a catalog holds: brokers with their environments, and topics; built from what a user wrote, and compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType, field
from msgspec.structs import asdict, replace

from ._config import read, snake
from ._names import check_group, check_tag, split_event
from .errors import CatalogError, nearest

_PROVIDER = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z")
_read = partial(read, error=CatalogError, code="CATALOG_INVALID")


class BrokerEnv(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A broker in one environment. The values of its config are never shown."""

    slug: str
    type: str
    """The provider, in capitals: ``KAFKA``, ``AWS_SQS``."""
    config: dict[str, Any] = field(default_factory=dict)
    """As the user wrote it: in either spelling, with ``${VAR}`` unexpanded. `read_config` reads it."""
    create: bool = True
    """May channels and groups be created, or only verified?"""

    def __repr__(self) -> str:
        return f"BrokerEnv(slug={self.slug!r}, type={self.type!r}, config=<{', '.join(self.config)}>)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("slug", self.slug), ("type", self.type), ("config", list(self.config))]


class Broker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A broker: one tag, and a provider with its config for every environment."""

    product: str
    tag: str
    name: str = ""
    description: str = ""
    envs: tuple[BrokerEnv, ...] = ()

    def env(self, slug: str) -> BrokerEnv:
        """Return what holds in an environment.

        Raises:
            CatalogError: ``ENV_NOT_FOUND``, naming the environments that there are.
        """
        for env in self.envs:
            if env.slug == slug:
                return env
        slugs = [env.slug for env in self.envs]
        known = f"It has {', '.join(slugs)}." if slugs else "It has none yet: add one with broker.update."
        text = f"broker {self.tag!r} has no env {slug!r}. {known}{nearest(str(slug), slugs)}"
        raise CatalogError("ENV_NOT_FOUND", text, broker=self.tag, env=slug)


class Topic(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A topic of a broker."""

    product: str
    broker: str
    tag: str
    """In full: ``broker:topic``."""
    name: str = ""
    description: str = ""
    sample: Any = None
    """An example of the payload, as JSON knows it; it documents."""
    queue_url: dict[str, str] = field(default_factory=dict)
    """The address of the channel by environment, where the provider has one (SQS). May hold ``${VAR}``."""
    order: Literal["none", "key", "total"] = "none"
    groups: tuple[str, ...] = ()
    """The groups that publishers declare too; empty: the default one."""
    type: Any = None
    """The declared type of the payload, kept in memory only."""
    options: dict[str, Any] = field(default_factory=dict)
    """For the adapter."""

    @property
    def short(self) -> str:
        """The tag without its broker."""
        return self.tag.partition(":")[2]


class _BrokerFields(msgspec.Struct, kw_only=True):
    """What a user may write of a broker. ``[[broker.env]]`` in a manifest, ``envs`` in a call."""

    tag: str
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    envs: tuple[BrokerEnv, ...] | UnsetType = field(name="env", default=UNSET)


class _BrokerChanges(_BrokerFields, kw_only=True):
    remove_envs: tuple[str, ...] = ()


class _QueueUrl(msgspec.Struct, kw_only=True):
    env_slug: str
    url: str


class _TopicFields(msgspec.Struct, kw_only=True):
    """What a user may write of a topic."""

    tag: str
    broker: str | UnsetType = field(name="message_broker_tag", default=UNSET)
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    sample: Any = UNSET
    queue_url: list[_QueueUrl] | dict[str, str] | UnsetType = UNSET
    order: Literal["none", "key", "total"] | UnsetType = UNSET
    groups: tuple[str, ...] | UnsetType = UNSET
    type: Any = UNSET
    options: dict[str, Any] | UnsetType = UNSET


class _TopicChanges(_TopicFields, kw_only=True):
    remove_envs: tuple[str, ...] = ()


def make_broker(raw: Mapping[str, object], *, product: str, within: str = "") -> Broker:
    """Build a broker from keywords or a mapping, in either spelling.

    Args:
        raw: What the user wrote.
        product: The catalog's product.
        within: What errors begin with, for instance a file's name and a comma.

    Raises:
        CatalogError: ``CATALOG_INVALID`` with the path, or ``TAG_INVALID``.
    """
    where = f"{within}{_named('broker', raw)}"
    given = _read(raw, _BrokerFields, where=where)
    check_tag(given.tag, f"{within}broker")
    return Broker(product=product, **_given_of_broker(given, where))


def changed_broker(broker: Broker, changes: Mapping[str, object]) -> Broker:
    """Return a broker with the given fields replaced; environments are keyed by slug.

    Raises:
        CatalogError: as `make_broker`, ``TAG_MISMATCH`` for another tag, ``ENV_NOT_FOUND`` for one to remove.
    """
    where = f"broker {broker.tag!r}"
    read = _read({"tag": broker.tag, **changes}, _BrokerChanges, where=where)
    _same_tag(where, broker.tag, read.tag)
    given = _given_of_broker(read, where)
    envs = {env.slug: env for env in (*broker.envs, *given.get("envs", ()))}
    for slug in read.remove_envs:
        envs.pop(broker.env(slug).slug, None)
    return replace(broker, **{**given, "envs": tuple(envs.values())})


def make_topic(raw: Mapping[str, object], *, product: str, within: str = "") -> Topic:
    """Build a topic from keywords or a mapping, in either spelling; its tag may be full or short.

    Raises:
        CatalogError: ``CATALOG_INVALID`` with the path, ``TAG_INVALID``, ``TAG_MISMATCH``.
    """
    where = f"{within}{_named('topic', raw)}"
    read = _read(raw, _TopicFields, where=where)
    given = _given_of_topic(read, where)
    broker, colon, _ = read.tag.partition(":")
    owner = given.pop("broker", broker if colon else None)
    if owner is None:
        text = f"{where}: name its broker, by message_broker_tag or by a full tag such as 'order-events:{read.tag}'."
        raise CatalogError("TAG_INVALID", text, tag=read.tag)
    check_tag(owner, f"{where}, message_broker_tag")
    if colon and broker != owner:
        raise CatalogError("TAG_MISMATCH", f"{where}: its tag names another broker than {owner!r}.", tag=read.tag)
    tag = read.tag if colon else f"{owner}:{check_tag(read.tag, f'{within}topic')}"
    split_event(tag)
    return Topic(product=product, broker=owner, **{**given, "tag": tag})


def changed_topic(topic: Topic, changes: Mapping[str, object]) -> Topic:
    """Return a topic with the given fields replaced; `queue_url` is keyed by environment.

    Raises:
        CatalogError: as `make_topic`, ``TAG_MISMATCH`` for another tag, ``ENV_NOT_FOUND`` for one to remove.
    """
    where = f"topic {topic.tag!r}"
    read = _read({"tag": topic.tag, **changes}, _TopicChanges, where=where)
    _same_tag(where, topic.tag, read.tag if ":" in read.tag else f"{topic.broker}:{read.tag}")
    given = _given_of_topic(read, where)
    _same_tag(where, topic.broker, given.pop("broker", topic.broker))
    urls = topic.queue_url | given.get("queue_url", {})
    for slug in read.remove_envs:
        if urls.pop(slug, None) is None:
            text = f"{where} has no queue_url for env {slug!r}.{nearest(slug, urls)}"
            raise CatalogError("ENV_NOT_FOUND", text, topic=topic.tag, env=slug)
    return replace(topic, **{**given, "tag": topic.tag, "queue_url": urls})


def differing(old: Broker | Topic, new: Broker | Topic) -> list[str]:
    """Name the fields in which two definitions differ; the spelling of config keys does not count."""
    fields = [name for name in old.__struct_fields__ if name != "envs"]
    names = [name for name in fields if not _same(name, getattr(old, name), getattr(new, name))]
    if isinstance(old, Broker) and isinstance(new, Broker):
        before, after = ({env.slug: asdict(env) for env in each.envs} for each in (old, new))
        for slug in dict.fromkeys((*before, *after)):
            was, now = before.get(slug, {}), after.get(slug, {})
            changed = [f"envs.{slug}.{name}" for name in was if not _same(name, was[name], now.get(name))]
            names += changed if was and now else [f"envs.{slug}"]
    return names


def provider_name(text: str) -> str:
    """Return a provider as the catalog writes it: ``aws-sqs`` is ``AWS_SQS``."""
    return text.upper().replace("-", "_")


def _given(fields: msgspec.Struct) -> dict[str, Any]:
    kept = ((name, getattr(fields, name)) for name in fields.__struct_fields__ if name != "remove_envs")
    return {name: value for name, value in kept if value is not UNSET}


def _given_of_broker(fields: _BrokerFields, where: str) -> dict[str, Any]:
    given = _given(fields)
    seen = set[str]()
    envs = []
    for n, env in enumerate(given.get("envs", ())):
        check_tag(env.slug, f"{where}, envs[{n}].slug")
        if env.slug in seen:
            raise CatalogError("CATALOG_INVALID", f"{where}, envs[{n}].slug: {env.slug!r} is there twice.")
        if not _PROVIDER.match(env.type):
            text = f"{where}, envs[{n}].type: {env.type!r} names no provider. Write one like 'KAFKA' or 'REDIS'."
            raise CatalogError("CATALOG_INVALID", text)
        seen.add(env.slug)
        envs.append(replace(env, type=provider_name(env.type)))
    return {**given, "envs": tuple(envs)} if "envs" in given else given


def _given_of_topic(fields: _TopicFields, where: str) -> dict[str, Any]:
    given = _given(fields)
    for group in given.get("groups", ()):
        check_group(group)
    if isinstance(given.get("queue_url"), list):
        given["queue_url"] = _urls(given["queue_url"], where)
    if isinstance(given.get("type"), str | int | Mapping):
        raise CatalogError("CATALOG_INVALID", f"{where}, type: give the payload's Python type, such as a class.")
    if "sample" in given:
        try:
            given["sample"] = msgspec.json.decode(msgspec.json.encode(given["sample"]))
        except (TypeError, ValueError, RecursionError) as error:
            text = f"{where}, sample: cannot be written as JSON ({type(error).__name__})."
            raise CatalogError("CATALOG_INVALID", text) from error
    return given


def _urls(listed: list[_QueueUrl], where: str) -> dict[str, str]:
    urls: dict[str, str] = {}
    for n, each in enumerate(listed):
        if each.env_slug in urls:
            text = f"{where}, queue_url[{n}].env_slug: {each.env_slug!r} is there twice."
            raise CatalogError("CATALOG_INVALID", text)
        urls[each.env_slug] = each.url
    return urls


def _same_tag(where: str, old: str, new: str) -> None:
    if old != new:
        text = f"{where}: tags cannot change ({new!r}). Create another, and delete this one."
        raise CatalogError("TAG_MISMATCH", text, tag=new)


def _named(what: str, raw: object) -> str:
    tag = raw.get("tag") if isinstance(raw, Mapping) else None
    return what if tag is None else f"{what} {tag!r}"


def _same(name: str, old: object, new: object) -> bool:
    return _spelled(old) == _spelled(new) if name in ("config", "options") else old == new


def _spelled(value: object) -> object:
    """Return settings as a file would give them back, every key in snake_case."""
    if isinstance(value, Mapping):
        return {snake(key) if isinstance(key, str) else key: _spelled(each) for key, each in value.items()}
    return [_spelled(each) for each in value] if isinstance(value, list | tuple) else value
