"""Where an event lives: its broker's connection, its channel and its groups, worked out from the catalog."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from ._config import expand
from ._connections import Link
from ._definitions import Topic
from ._names import check_group
from ._options import ORDERS
from ._records import Channel, Purpose
from .errors import ConfigError, nearest

_HOLE = re.compile(r"\{([^{}]*)\}")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where one event lives in one environment."""

    event: str
    env: str
    topic: Topic
    link: Link
    channel: Channel
    group: str
    """The default group."""
    own_group: bool
    """The default group was derived from the topic: it is that topic's own cursor."""
    groups: tuple[str, ...]
    """The groups that are declared with the channel."""
    alone: bool
    """No other topic of the broker shares the channel."""

    def private(self, purpose: Purpose, group: str) -> Channel:
        """Return a group's RETRY or DEAD channel."""
        return msgspec.structs.replace(self.channel, purpose=purpose, group=group, start=None)


def locate(topic: Topic, link: Link, *, env: str, environ: Mapping[str, str]) -> Place:
    """Work out where a topic's events live.

    Raises:
        ConfigError: ``CONFIG_INVALID`` if the config's names cannot be used.
    """
    product, broker = topic.product, topic.broker
    names = {"product": product, "env": env, "broker": broker, "topic": topic.short}
    where = f"broker {broker!r}, env {env!r}, config."
    adapter, config = link.adapter, link.config
    literal = getattr(config, adapter.channel_field, None) if adapter.channel_field else None
    named = getattr(config, adapter.group_field, None) if adapter.group_field else None
    channel = _fill(literal, names, where + adapter.channel_field) if literal else f"{broker}.{topic.short}"
    if named:
        group = _fill(named, names, where + adapter.group_field)
        group = group if literal else f"{group}.{topic.short}"
    else:
        group = f"{product}.{topic.short}"
    check_group(group)
    address = topic.queue_url.get(env, "")
    return Place(
        event=topic.tag,
        env=env,
        topic=topic,
        link=link,
        channel=Channel(
            name=channel,
            order=ORDERS[topic.order],
            address=expand(address, where=f"topic {topic.tag!r}, queue_url.{env}", environ=environ) if address else "",
            options=topic.options,
        ),
        group=group,
        own_group=not (named and literal),
        groups=topic.groups or (group,),
        alone=not literal or "{topic}" in str(literal),
    )


def _fill(text: str, names: Mapping[str, str], where: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in names:
            known = ", ".join(f"{{{name}}}" for name in names)
            text = f"{where}: {match[0]} is not one of {known}.{nearest(match[1], names)}"
            raise ConfigError("CONFIG_INVALID", text, path=where)
        return names[match[1]]

    return _HOLE.sub(value, str(text))
