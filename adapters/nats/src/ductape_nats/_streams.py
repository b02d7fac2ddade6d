"""Streams and consumers: found, made where that is allowed, and seen to keep what the adapter promises."""

from __future__ import annotations

import logging
import math
from datetime import datetime
from typing import Annotated, Any

import msgspec

from ductape.adapter import AdapterError, Channel, Durability, Fault, Order, Purpose

from ._config import NatsConfig
from ._link import Link
from ._wire import Names, error_fault, names_of, safe

__all__ = ["PIN_GROUP", "Group", "Stream", "Streams", "refused"]

PIN_GROUP = "ductape"
"""The priority group of consumers that keep order: the server pins one client of it."""
PINNING = (2, 11)
"""The version that can."""
PIN_MORE = 2.0
"""Seconds beyond a lease for which a silent client stays pinned."""
SLACK = 1.0
"""Seconds of a lease, at most a tenth of it, that are not counted on."""
DUPLICATES = 120.0
"""Seconds for which a stream knows the ids of what it has, so that a resend is stored once."""
NO_STREAM, NO_CONSUMER = 10059, 10014


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for a stream."""

    name: str
    created: str
    durability: Durability
    max_size: int | None
    """Bytes of a message, where the stream limits them."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A durable consumer."""

    stream: str
    name: str
    lease: float
    """Seconds for which a delivery is surely ours: the server counts from before it arrived."""
    pinned: bool


class Streams:
    """Those of one connection."""

    def __init__(self, link: Link, config: NatsConfig, *, create: bool, log: logging.Logger) -> None:
        """Look through a link; nothing is asked yet."""
        self._link, self._config, self._create, self._log = link, config, create, log
        self.known: dict[str, Stream] = {}
        """By subject."""
        self._floors: dict[tuple[str, str], int] = {}
        """Up to where a group had settled everything when it was last looked at."""

    # -- streams

    async def stream(self, channel: Channel) -> Stream:
        """Find the stream that takes a channel's subject, or make one.

        Raises:
            AdapterError: ``CONFIG`` if it is missing and may not be made, or cannot be used.
        """
        names = names_of(channel)
        known = self.known.get(names.subject)
        found = await self._link.api(f"STREAM.INFO.{known.name if known else names.stream}")
        if "error" in found or names.subject not in found["config"].get("subjects", ()):
            found = await self._other(names, found)
        if "error" in found:
            found = await self._make(channel, names)
        stream = self._examined(found, names)
        if known is not None and known.created != stream.created:  # another one, whose numbers begin anew
            self._floors = {key: 0 if key[0] == known.name else floor for key, floor in self._floors.items()}
        self.known[names.subject] = stream
        return stream

    async def _other(self, names: Names, found: dict[str, Any]) -> dict[str, Any]:
        """Return the stream that takes a subject under another name or by a wildcard; else the error as it was."""
        if others := await self._taking(names.subject):
            return await self._link.api(f"STREAM.INFO.{others[0]}")
        if "error" not in found:
            text = f"stream {names.stream!r} does not take subject {names.subject!r}; add it there, or rename one"
            raise AdapterError(Fault.CONFIG, text)
        return found

    async def _make(self, channel: Channel, names: Names) -> dict[str, Any]:
        if not self._create:
            text = f"no stream takes subject {names.subject!r}, and it may not be created here: make one, or allow it"
            raise AdapterError(Fault.CONFIG, text)
        config, private = self._config, channel.purpose is not Purpose.EVENTS
        made = await self._link.api(
            f"STREAM.CREATE.{names.stream}",
            {
                "name": names.stream, "subjects": [names.subject], "storage": config.storage,
                # A group's own streams hold what is not settled and nothing else, and are never cut.
                "retention": "workqueue" if private else "limits", "discard": "new" if private else "old",
                "max_bytes": -1 if private or config.max_bytes is None else config.max_bytes,
                "max_age": 0 if private or config.max_age is None else nanoseconds(config.max_age),
                "num_replicas": config.replicas, "duplicate_window": nanoseconds(self._window(private)),
            },
        )  # fmt: skip
        if "error" in made:
            raise refused(made, f"stream {names.stream!r}")
        return made

    def _window(self, private: bool) -> float:
        """How long the server knows ids: no longer than it keeps messages."""
        return DUPLICATES if private or self._config.max_age is None else min(DUPLICATES, self._config.max_age)

    def _examined(self, found: dict[str, Any], names: Names) -> Stream:
        """See what a stream keeps."""
        config = found["config"]
        name = config["name"]
        if config.get("no_ack"):
            raise AdapterError(Fault.CONFIG, f"stream {name!r} confirms nothing (no_ack); nothing would be sure")
        lasting = config.get("storage") == "file" and config.get("persist_mode", "default") != "async"
        if not lasting and names.subject not in self.known:
            self._log.warning("stream %s: a confirmed message can be lost (memory or async storage)", name)
        size = config.get("max_msg_size", -1)
        return Stream(
            name=name,
            created=found.get("created", ""),
            durability=Durability.STORED if lasting else Durability.BUFFERED,
            max_size=size if size > 0 else None,
        )

    # -- groups

    async def group(self, channel: Channel, group: str, order: Order, start: str | None) -> Group:
        """Find a group's consumer, or make it.

        Raises:
            AdapterError: ``CONFIG`` if it is missing and may not be made, or cannot be used.
        """
        subject = names_of(channel).subject
        stream = self.known.get(subject) or await self.stream(channel)
        # Where the server cannot pin, the capabilities say so, and the kernel refuses.
        name, pinned = safe(group), order is not Order.NONE and self._link.version >= PINNING
        found = await self._link.api(f"CONSUMER.INFO.{stream.name}.{name}")
        if _code(found) == NO_STREAM:
            self.known.pop(subject, None)
        if _code(found) == NO_CONSUMER:
            if not self._create:
                text = f"stream {stream.name!r} has no consumer {name!r}, and it may not be created here"
                raise AdapterError(Fault.CONFIG, text)
            wanted = self._consumer(group, subject) | (self._pin() if pinned else {})
            floor = self._floors.get((stream.name, name))
            # A group that was there and is gone must not miss what was stored meanwhile.
            wanted |= (
                _start(start) if floor is None else {"deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1}
            )
            found = await self._put(stream, name, wanted)
        elif "error" not in found and self._create and (changes := self._changes(found["config"], group, pinned)):
            found = await self._put(stream, name, found["config"] | changes)
        if "error" in found:
            raise refused(found, f"consumer {name!r} of stream {stream.name!r}")
        self._floors[stream.name, name] = found.get("ack_floor", {}).get("stream_seq", 0)
        return self._seen(stream, name, group, subject, found["config"], pinned)

    async def remove(self, channel: Channel) -> None:
        """Delete a group's consumer and its private streams, if they are there and its own: others' names can be alike.

        Raises:
            AdapterError: The server does not tell, or refuses.
        """
        name = safe(channel.group)
        for stream in await self._taking(names_of(channel).subject):
            found = await self._there(f"CONSUMER.INFO.{stream}.{name}")
            if found and found["config"].get("description") == _mark(channel.group):
                await self._there(f"CONSUMER.DELETE.{stream}.{name}")
                self._floors.pop((stream, name), None)
        for purpose in (Purpose.RETRY, Purpose.DEAD):
            subject = names_of(msgspec.structs.replace(channel, purpose=purpose)).subject
            for stream in await self._taking(subject):
                found = await self._there(f"STREAM.INFO.{stream}")
                if found and found["config"].get("subjects") == [subject]:
                    await self._there(f"STREAM.DELETE.{stream}")
            self.known.pop(subject, None)

    async def _taking(self, subject: str) -> list[str]:
        """Return the names of the streams that take a subject."""
        listed = await self._there("STREAM.NAMES", {"subject": subject})
        return listed.get("streams") or []

    async def _there(self, call: str, body: object = None) -> dict[str, Any]:
        """Return the server's answer; nothing where the stream or the consumer is missing."""
        found = await self._link.api(call, body)
        if "error" not in found:
            return found
        if _code(found) in (NO_STREAM, NO_CONSUMER):
            return {}
        raise refused(found, call)

    def _consumer(self, group: str, subject: str) -> dict[str, Any]:
        return {
            "durable_name": safe(group), "name": safe(group), "description": _mark(group), "ack_policy": "explicit",
            "ack_wait": nanoseconds(self._config.lease), "max_deliver": -1, "filter_subject": subject,
            # What waits for a retry counts as pending: a bound would stop the group.
            "max_ack_pending": -1, "max_waiting": 512, "replay_policy": "instant",
        }  # fmt: skip

    def _pin(self) -> dict[str, Any]:
        ttl = nanoseconds(self._config.lease + PIN_MORE)
        return {"priority_groups": [PIN_GROUP], "priority_policy": "pinned_client", "priority_timeout": ttl}

    def _changes(self, config: dict[str, Any], group: str, pinned: bool) -> dict[str, Any]:
        """Return what our own consumer has to become; others keep what their makers gave them."""
        if config.get("description") != _mark(group):
            return {}
        lease = {"ack_wait": nanoseconds(self._config.lease)}
        wanted = lease | self._pin() if pinned or config.get("priority_policy") == "pinned_client" else lease
        return {key: value for key, value in wanted.items() if config.get(key) != value}

    async def _put(self, stream: Stream, name: str, config: dict[str, Any]) -> dict[str, Any]:
        call = f"CONSUMER.CREATE.{stream.name}.{name}"
        if config.get("filter_subject"):  # none where an operator gave it several
            call += f".{config['filter_subject']}"
        return await self._link.api(call, {"stream_name": stream.name, "config": config})

    def _seen(self, stream: Stream, name: str, group: str, subject: str, config: dict[str, Any], pinned: bool) -> Group:
        """See that a consumer keeps what is promised, and is this group's."""
        lease, mark = config.get("ack_wait", 0) / 1e9, config.get("description", "")
        filters = config.get("filter_subjects") or [config.get("filter_subject") or subject]
        wrong = {
            f"belongs to another group ({mark})": mark.startswith(_mark("")) and mark != _mark(group),
            "does not ask for acknowledgements": config.get("ack_policy") != "explicit",
            "is pushed to a subject": bool(config.get("deliver_subject")),
            f"gives messages up after {config.get('max_deliver')} deliveries": config.get("max_deliver", -1) > 0,
            f"reads other subjects than {subject!r}": filters != [subject],
            f"waits {lease:g} s for an acknowledgement, less than config.lease": lease < self._config.lease - 0.001,
            "is not pinned, and cannot keep order": pinned and config.get("priority_policy") != "pinned_client",
        }
        for what, is_wrong in wrong.items():
            if is_wrong:
                text = f"consumer {name!r} of stream {stream.name!r} {what}; change it, or give the group another name"
                raise AdapterError(Fault.CONFIG, text)
        policy = config.get("priority_policy")
        return Group(
            stream=stream.name,
            name=name,
            lease=lease - min(SLACK, lease / 10),
            pinned=policy == "pinned_client",
        )


def nanoseconds(seconds: float) -> int:
    """Return seconds as JetStream takes them; never shorter."""
    return math.ceil(seconds * 1e9)


def _mark(group: str) -> str:
    """How a consumer says whose it is: names of consumers have no dots, and two groups could look alike."""
    return f"ductape group {group}"


def _start(start: str | None) -> dict[str, Any]:
    """Return where a new consumer begins.

    Raises:
        AdapterError: ``CONFIG`` if it is neither a word nor an RFC 3339 instant with an offset.
    """
    if start is None or start == "earliest":
        return {"deliver_policy": "all"}
    if start == "latest":
        return {"deliver_policy": "new"}
    try:
        msgspec.convert(start, type=Annotated[datetime, msgspec.Meta(tz=True)])
    except msgspec.ValidationError:
        text = f"start {start!r}: use 'earliest', 'latest' or an RFC 3339 instant such as 2026-11-23T10:00:00Z"
        raise AdapterError(Fault.CONFIG, text) from None
    return {"deliver_policy": "by_start_time", "opt_start_time": start}


def _code(found: dict[str, Any]) -> int:
    code: int = found.get("error", {}).get("err_code", 0)
    return code


def refused(found: dict[str, Any], what: str) -> AdapterError:
    """Return the `AdapterError` for an answer with an error."""
    error = found["error"]
    return error_fault(error.get("code", 0), error.get("err_code", 0), error.get("description", ""), what)
