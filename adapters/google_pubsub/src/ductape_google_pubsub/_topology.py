"""Topics and subscriptions: made where they are missing and that is allowed, looked at where they exist."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from ductape.adapter import AdapterError, Capabilities, Channel, Count, Fault, Order, Purpose, Site

from ._api import (
    CALL,
    Api,
    DeleteSubscription,
    DeleteTopic,
    Subscription,
    SubscriptionRequest,
    Topic,
    TopicRequest,
    code_of,
)
from ._config import GooglePubSubConfig
from ._wire import Names

__all__ = ["Facts", "Topology"]

ATTEMPTS: Final = 100
"""Deliveries after which the service itself moves a message to the dead letters: the most that it takes."""
UNSAID: Final = 5
"""The same where a policy does not say."""
FEW: Final = (
    "%s: after %d deliveries, those to consumers that died included, the service itself moves a message to this "
    "subscription's dead-letter topic, and not to ductape's dead letters; set max_delivery_attempts to 100"
)
RETENTION: Final = 7 * 86_400
DEADLINE: Final = 10.0
"""Seconds: the least deadline that a subscription can have on the service; assumed where it may not be looked at."""


class Facts(NamedTuple):
    """What a subscription is; of one that may not be looked at the least is assumed."""

    lease: float = DEADLINE
    ordered: bool = False
    exact: bool = False
    attempts: int = 0
    """Deliveries after which the service moves a message away; 0: never, and then it does not count them."""


class Topology:
    """Declares, and remembers what was found."""

    def __init__(self, api: Api, names: Names, config: GooglePubSubConfig, site: Site) -> None:
        """Begin without knowing anything."""
        self._api, self._names, self._config, self._site = api, names, config, site
        self._facts: dict[str, Facts] = {}

    def facts(self, channel: Channel, group: str) -> Facts:
        """Return what a declared group's subscription is."""
        return self._facts.get(self._names.subscription(channel, group), Facts())

    def capabilities(self, channel: Channel, most: Capabilities) -> Capabilities:
        """Return what holds for a channel: what its subscription is, or would be if it were made."""
        events = channel.purpose is Purpose.EVENTS
        config = self._config
        facts = self._facts.get(self._names.subscription(channel, channel.group)) or Facts(
            config.lease, events, config.exactly_once, ATTEMPTS if config.dead_letter_policy else 0
        )
        # Only a counted delivery can be given back to wait: uncounted, every return would be a first attempt. And only
        # if a retry policy may go on for as long as it likes: else the service takes the message away before its end.
        given_back = events and facts.attempts >= ATTEMPTS
        return msgspec.structs.replace(
            most,
            order=Order.KEY if events and facts.ordered else Order.NONE,
            count=Count.APPROXIMATE if events and facts.attempts else Count.NONE,
            retry_delay=most.retry_delay if given_back else 0.0,
            retry_step=most.retry_step if given_back else 0.0,
            confirmed_ack=facts.exact,
            lease=facts.lease,
        )

    async def declare(self, channel: Channel) -> None:
        """Create the channel's topic and its group's subscription, or verify them."""
        topic = self._names.topic(channel)
        await self._topic(topic)
        if channel.group:
            name = self._names.subscription(channel, channel.group)
            facts = await self._subscription(name, topic, channel)
            if 0 < facts.attempts < ATTEMPTS and facts != self._facts.get(name):
                self._site.log.warning(FEW, name, facts.attempts)
            self._facts[name] = facts

    async def remove(self, channel: Channel) -> None:
        """Delete the group's subscription, and its private topics with theirs."""
        private = [
            msgspec.structs.replace(channel, purpose=purpose, start=None) for purpose in (Purpose.RETRY, Purpose.DEAD)
        ]
        for each in (channel, *private):
            name = self._names.subscription(each, channel.group)
            self._facts.pop(name, None)
            await self._delete(self._api.delete_subscription, DeleteSubscription(subscription=name), name)
        for each in private:
            name = self._names.topic(each)
            await self._delete(self._api.delete_topic, DeleteTopic(topic=name), name)

    async def _delete(self, delete: Any, request: object, name: str) -> None:
        try:
            await delete(request, timeout=CALL, where=name)
        except AdapterError as error:
            if code_of(error) != "NOT_FOUND":
                raise

    async def _topic(self, name: str) -> None:
        found, hidden = await self._look(self._api.get_topic, TopicRequest(topic=name), name)
        if found is None and not hidden:
            await self._make(self._api.create_topic, Topic(name=name), name)

    async def _subscription(self, name: str, topic: str, channel: Channel) -> Facts:
        request = SubscriptionRequest(subscription=name)
        found, hidden = await self._look(self._api.get_subscription, request, name)
        if found is None and not hidden:
            self._may_create(name)
            wanted = await self._wanted(name, topic, channel)
            found = await self._make(self._api.create_subscription, wanted, name)
            if found is None:  # another process was faster
                found, hidden = await self._look(self._api.get_subscription, request, name)
        if found is None:
            return Facts()
        if found.topic != topic:
            text = f"{name}: belongs to {found.topic}, not to {topic}. Delete it, or choose another group"
            raise AdapterError(Fault.CONFIG, text)
        if found.push_config.push_endpoint:
            raise AdapterError(Fault.CONFIG, f"{name}: is a push subscription; ductape needs one that is pulled")
        return Facts(
            float(found.ack_deadline_seconds),
            found.enable_message_ordering,
            found.enable_exactly_once_delivery,
            _attempts(found.dead_letter_policy),
        )

    async def _wanted(self, name: str, topic: str, channel: Channel) -> Any:
        events = channel.purpose is Purpose.EVENTS
        wanted = Subscription(
            name=name,
            topic=topic,
            ack_deadline_seconds=self._config.lease,
            enable_message_ordering=events and channel.order is not Order.NONE,
            enable_exactly_once_delivery=self._config.exactly_once,
        )
        wanted.expiration_policy.SetInParent()  # never; else it is deleted after 31 idle days, with what it holds
        wanted.message_retention_duration.seconds = RETENTION
        if events and self._config.dead_letter_policy:
            dead = Channel(name=channel.name, purpose=Purpose.DEAD, group=channel.group)
            await self.declare(dead)  # with a subscription: a topic alone would drop what is moved there
            wanted.dead_letter_policy.dead_letter_topic = self._names.topic(dead)
            wanted.dead_letter_policy.max_delivery_attempts = ATTEMPTS
        return wanted

    async def _look(self, get: Any, request: object, name: str) -> tuple[Any, bool]:
        """Return what is there, or None; and whether it may not be looked at and is taken to be there."""
        try:
            return await get(request, timeout=CALL, where=name), False
        except AdapterError as error:
            code = code_of(error)
            if code == "NOT_FOUND" and error.fault is Fault.LOST:  # CONFIG: its whole project is missing
                return None, False
            if code == "PERMISSION_DENIED":
                if not self._site.create:
                    self._site.log.info("%s may not be looked at; it is taken to be there", name)
                return None, not self._site.create
            raise

    def _may_create(self, name: str) -> None:
        if not self._site.create:
            raise AdapterError(Fault.CONFIG, f"{name}: is missing, and may not be created here")

    async def _make(self, create: Any, wanted: object, name: str) -> Any:
        """Create; return None if it is there already."""
        self._may_create(name)
        try:
            return await create(wanted, timeout=CALL, where=name)
        except AdapterError as error:
            code = code_of(error)
            if code == "ALREADY_EXISTS":
                return None
            if code == "PERMISSION_DENIED":
                text = f"{name}: may be neither looked at nor created: check config.project_id, grant "
                raise AdapterError(Fault.CONFIG, text + "roles/pubsub.editor, or say create: false") from error
            raise


def _attempts(policy: Any) -> int:
    return (policy.max_delivery_attempts or UNSAID) if policy.dead_letter_topic else 0
