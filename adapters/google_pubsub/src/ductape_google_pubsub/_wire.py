"""Records to messages and back, names, and what an error means. Pure: no I/O.

The body is the message's data and every header an attribute. The key is the ordering key of an ordered channel, and the
attribute ``ductape-key`` on any other: a request carries one ordering key, so that keys there would cost the batches.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ductape.adapter import AdapterError, Channel, Delivery, Epoch, Fault, Outgoing, Purpose, Settlement, Verdict

__all__ = [
    "Leased",
    "Names",
    "delivery_of",
    "fault_of",
    "fill",
    "legal",
    "refused_ids",
    "seconds_of",
]

KEY: Final = "ductape-key"
LONGEST: Final = 600
"""Seconds: the longest acknowledgement deadline that Pub/Sub takes."""
COARSE, STEP = 60, 5
"""Delays above so many seconds are rounded up to a multiple of the second: every distinct one costs a call."""

_TRANSIENT: Final = {
    "UNAVAILABLE", "ABORTED", "INTERNAL", "UNKNOWN", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED",
}  # fmt: skip
_CONFIG: Final = {"PERMISSION_DENIED", "UNAUTHENTICATED", "FAILED_PRECONDITION", "UNIMPLEMENTED", "OUT_OF_RANGE"}
_ADVICE: Final = {
    "PERMISSION_DENIED": "Grant the account roles/pubsub.publisher and roles/pubsub.subscriber, and "
    "roles/pubsub.editor where ductape creates topics and subscriptions; or config.project_id is another's",
    "UNAUTHENTICATED": "Check config.key_filename, or Google's default credentials",
    "NOT_FOUND": "It was deleted, or config.project_id is another's",
    "RESOURCE_EXHAUSTED": "A quota of the project is used up",
    "DEADLINE_EXCEEDED": "No answer in time: check the network, config.endpoint and config.emulator_host",
    "UNAVAILABLE": "The service cannot be reached: check the network, config.endpoint and config.emulator_host",
}
_NO_TOKEN: Final = "plugin failed"
"""In the text of a status that gRPC itself made: `Login` had no token for the call, which was not sent."""
_UNTRUSTED: Final = "CERTIFICATE_VERIFY_FAILED"
_NO_PROJECT: Final = "project not found"
"""In the service's text where not the resource is missing, but its whole project."""


def fault_of(code: str, details: str, where: str, *, wrote: bool = False) -> AdapterError:
    """Return what a gRPC status means.

    Args:
        code: The name of the status.
        details: Its text.
        where: The resource that the call was about.
        wrote: It was a publish: it may have been done, and the text may quote a message.
    """
    text = f"{where}: {code}"
    if not wrote and details and _NO_TOKEN not in details:
        text += f": {details[:300]}"
    if advice := _advice(code, details):
        text += f". {advice}"
    return AdapterError(_meaning(code, details, wrote), text)


def _advice(code: str, details: str) -> str:
    if _NO_TOKEN in details:
        if "refused" in details:
            return "No token: the key of config.key_filename, or of the default credentials, was deleted or disabled"
        return "No token for now: check that Google's token endpoint can be reached"
    if _UNTRUSTED in details:
        return (
            "The certificate is not trusted: check config.endpoint; GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names the file of "
            "authorities that gRPC trusts in place of its own"
        )
    if _NO_PROJECT in details:
        return "Check config.project_id: the id, not the name that is displayed"
    return _ADVICE.get(code, "")


def _meaning(code: str, details: str, wrote: bool) -> Fault:
    if code == "INVALID_ARGUMENT":
        return Fault.MESSAGE if wrote else Fault.CONFIG
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in details:
        return Fault.MESSAGE
    if _UNTRUSTED in details or _NO_PROJECT in details or (_NO_TOKEN in details and "refused" in details):
        return Fault.CONFIG
    if code in _TRANSIENT:
        never_left = code == "RESOURCE_EXHAUSTED" or "failed to connect" in details or _NO_TOKEN in details
        return Fault.AMBIGUOUS if wrote and not never_left else Fault.TRANSIENT
    return Fault.CONFIG if code in _CONFIG else Fault.LOST


class Names:
    """Names of topics and subscriptions in one project."""

    def __init__(self, project: str, subscription_name: str | None) -> None:
        """Prepare; `subscription_name` is the config's, and may hold ``{…}``."""
        self.project = project
        literal = [re.escape(part) for part in re.split(r"\{[^{}]*\}", subscription_name)] if subscription_name else []
        self._given = re.compile(".+".join(literal)) if literal else None
        self._base = subscription_name if len(literal) == 1 else None

    def topic(self, channel: Channel) -> str:
        """Return the whole name of a channel's topic."""
        own = "" if channel.purpose is Purpose.EVENTS else f".{channel.group}.{channel.purpose.value}"
        if channel.name.startswith("projects/") and not own:
            return channel.name
        return f"projects/{self.project}/topics/{legal(_id(channel) + own)}"

    def subscription(self, channel: Channel, group: str) -> str:
        """Return the whole name of a group's subscription: the group's where the config names it, else a longer one."""
        if channel.purpose is not Purpose.EVENTS:
            name = f"{_id(channel)}.{channel.group}.{channel.purpose.value}"
        elif self._given is not None and self._given.fullmatch(group):
            name = group
        else:
            name = f"{self._base or _id(channel)}.{group}"
        return f"projects/{self.project}/subscriptions/{legal(name)}"


def _id(channel: Channel) -> str:
    return channel.name.rpartition("/")[2]


def legal(name: str) -> str:
    """Return an id as Pub/Sub takes it: from a letter, not from ``goog``, 3 to 255 characters long."""
    if not name[:1].isalpha() or name[:4].lower() == "goog" or len(name) < 3:
        name = f"ductape.{name}"
    if len(name) > 255:
        name = f"{name[:238]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


def fill(message: Any, record: Outgoing, *, ordered: bool) -> None:
    """Write a record into a message."""
    message.data = record.body
    attributes = message.attributes
    attributes.update(record.headers)
    if record.key is not None:
        if ordered and record.key:
            message.ordering_key = record.key
        else:
            attributes[KEY] = record.key


class Leased(NamedTuple):
    """What all deliveries of one poll share."""

    epoch: Epoch
    until: float
    topic: str


def delivery_of(received: Any, shared: Leased) -> Delivery:
    """Return a received message as a delivery."""
    message = received.message
    attributes = message.attributes
    headers = {name: attributes[name] for name in attributes}  # `dict(…)` goes through Python code of protobuf's
    key = headers.pop(KEY, None)
    if key is None:
        key = message.ordering_key or None
    epoch, until, topic = shared
    time = message.publish_time
    return Delivery(
        message.data, headers, epoch, received.ack_id, key, None, received.delivery_attempt or None, until,
        time.seconds + time.nanos / 1e9, f"{topic}@{message.message_id}",
    )  # fmt: skip


def seconds_of(settlement: Settlement, *, ordered: bool) -> int:
    """Return the acknowledgement deadline that gives a message back.

    What is handed back to an ordered channel comes after a second: a deadline that runs out keeps the order of a key's
    messages, a refusal (a deadline of 0) lets later ones overtake.
    """
    if settlement.verdict is Verdict.RELEASE:
        return 1 if ordered else 0
    seconds = math.ceil(settlement.delay)
    if seconds > COARSE:
        seconds = math.ceil(seconds / STEP) * STEP
    return min(max(seconds, 1), LONGEST)  # a failure never comes back at once: that would be a hot loop


def refused_ids(details: Mapping[str, str], where: str) -> dict[str, AdapterError]:
    """Return the ids that an exactly-once subscription refused."""
    found: dict[str, AdapterError] = {}
    for ack_id, reason in details.items():
        if reason.startswith("TRANSIENT_FAILURE"):
            found[ack_id] = AdapterError(Fault.TRANSIENT, f"{where}: {reason}")
        elif reason.startswith("PERMANENT_FAILURE"):
            found[ack_id] = AdapterError(
                Fault.LOST, f"{where}: {reason}: the message is, or will be, with somebody else"
            )
    return found
