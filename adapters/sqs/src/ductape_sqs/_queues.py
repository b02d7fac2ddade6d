"""Which queue a channel is: found, created where that is allowed, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ductape.adapter import AdapterError, Channel, Fault, Order, Purpose, Site

from ._client import CALL, Client, Refused
from ._config import SqsConfig
from ._wire import LARGEST, dead_name, queue_name

__all__ = ["Queue", "Queues"]

LOOK = 7.0
"""Seconds for each of the up to four calls of a declaration, which may take 30 in all."""
FORTNIGHT = "1209600"
"""Seconds for which a queue of dead letters keeps them: the longest there is."""
MISSING = ("QueueDoesNotExist", "NonExistentQueue")
EXISTS = ("QueueAlreadyExists", "QueueNameExists")
DENIED = ("AccessDenied", "AccessDeniedException")


class Queue(NamedTuple):
    """One queue."""

    name: str
    url: str
    largest: int = LARGEST
    """Bytes of a message that it takes."""
    redrive: str = ""
    """The ARN of the queue to which SQS moves what was received too often; empty: nothing is moved."""

    @property
    def fifo(self) -> bool:
        """SQS tells FIFO queues by their names."""
        return self.name.endswith(".fifo")


class _Url(msgspec.Struct, rename="pascal"):
    queue_url: str


class _Attributes(msgspec.Struct, rename="pascal"):
    attributes: dict[str, str] = {}


class Queues:
    """The queues of a connection's channels. A channel's RETRY is the queue itself: that is its one group."""

    def __init__(self, client: Client, config: SqsConfig, site: Site) -> None:
        """Begin without knowing any."""
        self._client, self._config, self._site = client, config, site
        self._known: dict[tuple[str, bool], Queue] = {}
        self._owners: dict[str, tuple[str, str]] = {}
        """By the names of queues: what is kept there, and the channel whose it is."""

    def of(self, channel: Channel) -> Queue:
        """Return the queue of a channel that was declared.

        Raises:
            AdapterError: ``LOST`` if it was not.
        """
        queue = self._known.get(_key(channel))
        if queue is None:
            raise AdapterError(Fault.LOST, f"channel {channel.name!r} is not declared on this connection")
        return queue

    def guess(self, channel: Channel) -> Queue:
        """Return the queue of a channel, also of one that was not declared: then its name alone is true."""
        known = self._known.get(_key(channel))
        if known is not None:
            return known
        name = self.name(channel)
        return Queue(dead_name(name) if channel.purpose is Purpose.DEAD else name, "")

    def name(self, channel: Channel) -> str:
        """Return the name of a channel's queue of events."""
        if channel.address:
            if self._config.queue:
                raise AdapterError(Fault.CONFIG, "config.queue and the topic's queue_url both name a queue; give one")
            return channel.address.rstrip("/").rpartition("/")[2]
        if self._config.queue:
            return channel.name
        fifo = channel.options.get("fifo", self._config.fifo)
        if fifo not in (None, True, False):
            raise AdapterError(Fault.CONFIG, f"options.fifo: {fifo!r} is not true or false")
        return queue_name(channel.name, fifo=channel.order is not Order.NONE if fifo is None else bool(fifo))

    async def declare(self, channel: Channel) -> Queue:
        """Find or create the queue of a channel, and read what it takes.

        Raises:
            AdapterError: ``CONFIG`` if it is missing and may not be created.
        """
        events = await self._events(channel)
        if channel.purpose is not Purpose.DEAD:
            return events
        known = self._known.get(_key(channel))
        if events.redrive:
            account, name = events.redrive.split(":")[4:6]
            queue = await self._look(name, known, {}, account=account)
        else:
            queue = await self._look(dead_name(events.name), known, {"MessageRetentionPeriod": FORTNIGHT})
        self._known[_key(channel)] = queue
        return queue

    async def _events(self, channel: Channel) -> Queue:
        key, name = (channel.name, False), self.name(channel)
        known = self._known.get(key)
        if channel.address:
            queue = await self._attributes(Queue(name, channel.address))
            if queue is None:
                raise AdapterError(Fault.CONFIG, f"queue {channel.address!r} is missing: create it, or mend queue_url")
        else:
            self._own(name, "events", channel)
            attributes = {"VisibilityTimeout": str(self._config.lease), **_wished(channel)}
            if name.endswith(".fifo"):
                attributes["FifoQueue"] = "true"
            queue = await self._look(name, known, attributes)
        if not queue.redrive:
            dead = dead_name(name)  # a name that leaves no room is told now, not when the first letter is written
            if not channel.address:
                self._own(dead, "dead letters", channel)
        self._known[key] = queue
        return queue

    def _own(self, name: str, what: str, channel: Channel) -> None:
        """See that a queue is one channel's: names of queues have no dots, and those of two channels can be alike.

        Raises:
            AdapterError: ``CONFIG`` if it is another's.
        """
        kept, owner = self._owners.setdefault(name, (what, channel.name))
        if (kept, owner) != (what, channel.name):
            text = f"queue {name!r} is for the {kept} of {owner!r} already, and would be for the {what} of"
            raise AdapterError(Fault.CONFIG, f"{text} {channel.name!r} too: give a topic another tag, or a queue_url")

    async def _look(self, name: str, known: Queue | None, attributes: Mapping[str, str], account: str = "") -> Queue:
        """Find a queue by its name, and create it where it is missing and that is allowed."""
        if known is not None:
            queue = await self._attributes(known)
            if queue is not None:
                return queue
        url = await self._url(name, account)
        if url is None and (account or not self._site.create):
            why = "is the redrive target" if account else "may not be created here"
            raise AdapterError(Fault.CONFIG, f"queue {name!r} is missing, and {why}: create it")
        if url is None:
            url = await self._create(name, attributes)
        queue = await self._attributes(Queue(name, url))
        if queue is None:  # AWS takes a second until a queue that it created is there
            raise AdapterError(Fault.TRANSIENT, f"queue {name!r} is not there yet")
        return queue

    async def _url(self, name: str, account: str = "", seconds: float = LOOK) -> str | None:
        request = {"QueueName": name} | ({"QueueOwnerAWSAccountId": account} if account else {})
        try:
            return (await self._client.call("GetQueueUrl", request, _Url, seconds)).queue_url
        except Refused as error:
            if error.code in MISSING:
                return None
            raise

    async def _create(self, name: str, attributes: Mapping[str, str]) -> str:
        try:
            request = {"QueueName": name, "Attributes": attributes}
            answer = await self._client.call("CreateQueue", request, _Url, LOOK)
        except Refused as error:
            url = await self._url(name) if error.code in EXISTS else None  # somebody was quicker
            if url is None:
                raise
            return url
        self._site.log.info("created queue %s", name)
        return answer.queue_url

    async def _attributes(self, queue: Queue) -> Queue | None:
        """Return a queue with what it says of itself; None: it is not there."""
        request = {"QueueUrl": queue.url, "AttributeNames": ["MaximumMessageSize", "RedrivePolicy"]}
        try:
            found = (await self._client.call("GetQueueAttributes", request, _Attributes, LOOK)).attributes
        except Refused as error:
            if error.code in MISSING:
                return None
            if error.code not in DENIED:
                raise
            self._site.log.debug("queue %s: its attributes may not be read", queue.name)
            return queue
        policy = msgspec.json.decode(found["RedrivePolicy"]) if found.get("RedrivePolicy") else {}
        largest = int(found.get("MaximumMessageSize", LARGEST))
        return queue._replace(largest=largest, redrive=str(policy.get("deadLetterTargetArn", "")))

    async def ping(self) -> None:
        """Ask for a queue that need not be there: credentials, region and address are right if SQS answers."""
        try:
            await self._url("ductape", seconds=CALL)
        except Refused as error:
            if error.code not in DENIED:
                raise

    async def waiting(self, queue: Queue) -> int | None:
        """Return about how many messages wait in a queue."""
        request = {"QueueUrl": queue.url, "AttributeNames": ["ApproximateNumberOfMessages"]}
        found = (await self._client.call("GetQueueAttributes", request, _Attributes)).attributes
        number = found.get("ApproximateNumberOfMessages")
        return int(number) if number is not None else None


def _key(channel: Channel) -> tuple[str, bool]:
    return channel.name, channel.purpose is Purpose.DEAD


def _wished(channel: Channel) -> dict[str, str]:
    """Return the attributes that a topic wants for its queue."""
    wished = channel.options.get("attributes", {})
    if not isinstance(wished, Mapping) or not all(isinstance(value, str) for value in wished.values()):
        raise AdapterError(Fault.CONFIG, "options.attributes: is no mapping of texts, as CreateQueue takes them")
    return dict(wished)
