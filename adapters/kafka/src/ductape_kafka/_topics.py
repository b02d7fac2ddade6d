"""Topics: looked for, created, and what they are like."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.protocol.metadata import MetadataRequest

from ductape.adapter import AdapterError, Channel, Fault, Order, Purpose, Site, translate

from ._config import KafkaConfig
from ._wire import OPENING, group_of, topics_of

__all__ = ["Together", "Topic", "Topics", "parts"]

V = TypeVar("V")

ASK = 8.0
"""Seconds for one question; the client has no bound of its own."""
APPEAR = 15.0
"""Seconds within which every partition of a new topic has a leader."""
EXISTS, MISSING, MEMBERS, NO_GROUP = 36, 3, 68, 69
PASSING = (5, 6, 7, 9, 13, 14, 15, 16, 19, 41)
"""Error codes that pass: leaders and controllers that move, requests that time out."""
OVERHEAD = 2048
"""What the batch and the names' lengths take of a message, at most."""
DEFAULT_LIMIT = 1_048_588
PARTITIONS = 2000
"""Partitions that one request creates, or one topic's: a controller refuses more than 10,000 of its own records."""


class Topic(NamedTuple):
    """What is known of a topic."""

    partitions: int
    limit: int
    """Bytes of a message's body and headers."""
    compacted: bool
    """Records without a key are refused."""


class Together(Generic[V]):
    """Asks for all that is wanted at the same time in one request, and meanwhile gathers for the next.

    A broker takes as long to create a hundred topics as to create one; asked for one by one, a thousand that are opened
    together wait for one another beyond every bound.
    """

    def __init__(self, ask: Callable[[dict[str, V]], Awaitable[dict[str, Any]]]) -> None:
        """Take what makes the request: from what is wanted, by name, to the answers, by name."""
        self._ask = ask
        self._wanted: dict[str, V] = {}
        self._gathering: asyncio.Task[dict[str, Any]] | None = None
        self._asking: asyncio.Task[dict[str, Any]] | None = None

    async def __call__(self, wanted: dict[str, V]) -> dict[str, Any]:
        """Return the answers for this, and for what others wanted with it; raises what the request raised."""
        self._wanted |= wanted
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().create_task(self._round())
        return await asyncio.shield(self._gathering)

    async def _round(self) -> dict[str, Any]:
        if self._asking is not None:
            await asyncio.wait({self._asking})
        wanted, self._wanted = self._wanted, {}
        self._asking, self._gathering = self._gathering, None
        try:
            return await self._ask(wanted)
        finally:
            self._asking = None


class Topics:
    """Declares the topics of a connection."""

    def __init__(self, config: KafkaConfig, admin: AIOKafkaAdminClient, site: Site) -> None:
        """Prepare."""
        self.known: dict[str, Topic] = {}
        self._config, self._admin, self._site = config, admin, site
        self._warned: set[str] = set()
        self._described: Together[None] = Together(self._describe)
        self._created: Together[NewTopic] = Together(self._make)
        self._configured: Together[None] = Together(self._configs)

    async def declare(self, channel: Channel) -> None:
        """Create the topics of a channel if they are missing and that is allowed, else verify them.

        Raises:
            AdapterError: ``CONFIG`` if one is missing and may not be created.
        """
        names = topics_of(channel)
        with translate(OPENING):
            found = await self._look(names)
            missing = [name for name in names if name not in found]
            if missing and not self._site.create:
                text = f"topic {missing[0]!r} is missing, and may not be created here"
                raise AdapterError(Fault.CONFIG, text)
            if missing:
                await self._create(channel, missing)
                found = await self._appeared(names)
            fresh = [name for name in names if name not in self.known]
            if fresh:
                await self._read(fresh, found)
        for name in names:
            self.known[name] = self.known[name]._replace(partitions=len(found[name]))

    def like(self, channel: Channel) -> Topic:
        """Return what a channel's topic is like. One that was not declared yet may be asked for with a total order."""
        return self.known.get(topics_of(channel)[0]) or Topic(1, DEFAULT_LIMIT - OVERHEAD, False)

    async def remove(self, channel: Channel) -> None:
        """Delete a group's marks and its private topics.

        Raises:
            AdapterError: ``CONFIG`` if the group has members.
        """
        private = [msgspec.structs.replace(channel, purpose=purpose) for purpose in (Purpose.RETRY, Purpose.DEAD)]
        with translate(OPENING):
            for each in (channel, *private):
                await self._forget(group_of(each, channel.group))
            names = [name for each in private for name in topics_of(each)]
            async with asyncio.timeout(ASK):
                answer = await self._admin.delete_topics(names)
        for name, code in answer.topic_error_codes:
            if code not in (0, MISSING):
                raise _refusal(name, code)
            self.known.pop(name, None)

    async def _forget(self, group: str) -> None:
        async with asyncio.timeout(ASK):
            coordinator = await self._admin.find_coordinator(group)
            # aiokafka knows the request, and has no call for it.
            answer = await self._admin._send_request(DeleteGroupsRequest([group]), coordinator)
        for _, code in answer.results:
            if code == MEMBERS:
                raise AdapterError(Fault.CONFIG, f"group {group!r} has members: stop them first")
            if code not in (0, NO_GROUP):
                raise _refusal(group, code)

    async def _look(self, names: Sequence[str], *, patient: bool = False) -> dict[str, list[Any]]:
        """Return the partitions of those that are there; `patient`: leave out those about which nobody can tell yet."""
        answers = await self._described(dict.fromkeys(names))
        found: dict[str, list[Any]] = {}
        for name in names:
            code, partitions = answers[name]
            if not code:
                found[name] = partitions
            elif code not in (MISSING, *PASSING):
                raise _refusal(name, code)
            elif code != MISSING and not patient:
                raise AdapterError(Fault.TRANSIENT, f"topic {name!r}: error {code}")
        return found

    async def _describe(self, names: dict[str, None]) -> dict[str, tuple[int, list[Any]]]:
        async with asyncio.timeout(ASK):
            # Its own call has a broker of default settings create what is asked for, with one partition.
            request = MetadataRequest(list(names), allow_auto_topic_creation=False)
            answer = await self._admin._send_request(request)
        return {each["topic"]: (each["error_code"], each["partitions"]) for each in answer.to_object()["topics"]}

    async def _create(self, channel: Channel, names: Sequence[str]) -> None:
        partitions, replication, settings = self._wanted(channel)
        # With a mapping of replicas, though empty, -1 stands for the brokers' default; without one it is refused.
        replicas: dict[int, list[int]] | None = {} if replication < 0 else None
        wanted = {name: NewTopic(name, partitions, replication, replicas, settings) for name in names}
        answers = await self._created(wanted)
        for name in names:
            code, *text = answers[name]
            if code not in (0, EXISTS):
                raise _refusal(name, code, *text)

    async def _make(self, wanted: dict[str, NewTopic]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for topics in parts([*wanted.values()]):
            async with asyncio.timeout(ASK + 7):
                answer = await self._admin.create_topics(topics, timeout_ms=int(ASK * 1000))
            found |= {name: rest for name, *rest in answer.topic_errors}
        return found

    def _wanted(self, channel: Channel) -> tuple[int, int, dict[str, str]]:
        """Return partitions, replicas and settings of a new topic, from the config and the topic's options."""
        options = channel.options
        partitions = _number(options.get("partitions", self._config.partitions), "partitions")
        replication = options.get("replication", self._config.replication)
        replicas = _number(replication, "replication") if replication is not None else -1
        given = options.get("config", {})
        if not isinstance(given, dict):
            raise AdapterError(Fault.CONFIG, "options.config: is no mapping of settings such as retention.ms")
        settings = {str(name): str(value) for name, value in given.items()}
        if replicas >= 3:
            # One replica alone must not confirm what dies with it.
            settings.setdefault("min.insync.replicas", "2")
        if channel.purpose is not Purpose.EVENTS:
            settings |= {"retention.ms": "-1", "cleanup.policy": "delete"}
            partitions = 1
        if channel.order is Order.TOTAL and "partitions" not in options:
            partitions = 1
        return partitions, replicas, settings

    async def _appeared(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Wait until every partition has a leader: what is new is not everywhere at once."""
        pause = 0.02
        async with asyncio.timeout(APPEAR):
            while True:
                found = await self._look(names, patient=True)
                parts = [part for name in names for part in found.get(name, ())]
                if len(found) == len(set(names)) and parts and not any(part["error_code"] for part in parts):
                    return found
                await self._site.clock.sleep(pause)
                pause = min(pause * 1.5, 0.5)  # a broker that makes thousands is not kept from it by questions

    async def _read(self, names: Sequence[str], found: dict[str, list[Any]]) -> None:
        """Read the settings on which we depend. Where reading them is refused, the defaults are taken."""
        answers = await self._configured(dict.fromkeys(names))
        for name in names:
            self.known[name] = Topic(len(found[name]), DEFAULT_LIMIT - OVERHEAD, False)
            values = answers.get(name)
            if values is None:
                continue
            limit = int(values.get("max.message.bytes") or DEFAULT_LIMIT)
            compacted = "compact" in (values.get("cleanup.policy") or "")
            self.known[name] = Topic(len(found[name]), max(limit - OVERHEAD, 1), compacted)
            self._warn(name, found[name], int(values.get("min.insync.replicas") or 1))

    async def _configs(self, names: dict[str, None]) -> dict[str, dict[str, str]]:
        wanted = ("max.message.bytes", "min.insync.replicas", "cleanup.policy")
        asked = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(wanted, "")) for name in names]
        async with asyncio.timeout(ASK):
            answers = await self._admin.describe_configs(asked)
        return {
            name: {entry[0]: entry[1] for entry in entries}
            for answer in answers
            for code, _, _, name, entries in answer.resources
            if not code
        }

    def _warn(self, name: str, partitions: list[Any], needed: int) -> None:
        replicas = min((len(part["replicas"]) for part in partitions), default=1)
        if replicas > 1 and needed < 2 and name not in self._warned:
            self._warned.add(name)
            self._site.log.warning(
                "broker %s: a confirmed message of topic %s can be lost with one broker: min.insync.replicas is %d of "
                "%d; set 2",
                self._site.broker, name, needed, replicas,
            )  # fmt: skip


def parts(topics: Sequence[NewTopic]) -> Iterator[list[NewTopic]]:
    """Give so many at a time that a controller takes them."""
    part: list[NewTopic] = []
    for topic in topics:
        if part and sum(each.num_partitions for each in part) + topic.num_partitions > PARTITIONS:
            yield part
            part = []
        part.append(topic)
    if part:
        yield part


def _number(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise AdapterError(Fault.CONFIG, f"options.{name}: {value!r} is not a number of at least 1")
    return value


def _refusal(name: str, code: int, text: str | None = None) -> AdapterError:
    kind = for_code(code)
    fault = Fault.TRANSIENT if code in PASSING else Fault.CONFIG
    return AdapterError(fault, f"{name!r}: {kind.__name__} ({code}){f': {text}' if text else ''}")
