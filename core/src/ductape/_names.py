"""Names that users write: tags, events, groups, and the nearest known one when a name is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from os import register_at_fork, urandom

from .errors import CatalogError, ConfigError

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_RESERVED = ("dead", "retry")


def check_tag(tag: object, what: str) -> str:
    """Return `tag` if it can name a broker, topic, product or environment.

    Raises:
        CatalogError: ``TAG_INVALID``.
    """
    if isinstance(tag, str) and _TAG.match(tag):
        return tag
    text = f"{what} {tag!r}: use up to 128 letters, digits, '.', '_' and '-', beginning with a letter or digit."
    raise CatalogError("TAG_INVALID", text, tag=tag)


def split_event(event: object) -> tuple[str, str]:
    """Return the broker's and the topic's tag of an event's name.

    Raises:
        CatalogError: ``TAG_INVALID``, unless it reads ``brokerTag:topicTag``.
    """
    if isinstance(event, str):
        broker, colon, topic = event.partition(":")
        if colon and _TAG.match(broker) and _TAG.match(topic):
            return broker, topic
    text = f"event {event!r}: write 'brokerTag:topicTag', for instance 'order-events:new-orders'."
    raise CatalogError("TAG_INVALID", text, event=event)


def check_group(group: object) -> str:
    """Return `group` if it can name a group.

    Raises:
        ConfigError: ``OPTION_INVALID``, also for names that end like a channel derived from a group.
    """
    if not isinstance(group, str) or not _TAG.match(group):
        text = f"group {group!r}: use up to 128 letters, digits, '.', '_' and '-', beginning with a letter or digit."
        raise ConfigError("OPTION_INVALID", text, group=group)
    ending = re.split(r"[.:_-]", group)[-1].lower()
    if ending in _RESERVED and ending != group.lower():
        raise ConfigError(
            "OPTION_INVALID",
            f"group {group!r} ends like a channel that ductape derives from a group ('{ending}'). Choose another name.",
            group=group,
        )
    return group


class _Ids:
    """Ids that no two processes share: 64 random bits once per process, then a counter."""

    def __init__(self) -> None:
        self.next: Callable[[], str]
        self.forks = 0
        """How often this process was forked: what a parent opened is not this process's."""
        self._renew()
        register_at_fork(after_in_child=self._forked)

    def _renew(self) -> None:
        self.next = map(f"{urandom(8).hex()}%012x".__mod__, count()).__next__

    def _forked(self) -> None:
        self.forks += 1
        self._renew()


ids = _Ids()
