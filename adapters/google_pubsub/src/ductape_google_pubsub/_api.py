"""The few methods of Pub/Sub that the adapter calls, over a gRPC channel of its own with the client library's types.

The library's asynchronous client does the same with some ten times the work for a message; its batching, leases and
ordering exist in its threaded client only.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import quote

import grpc  # type: ignore[import-untyped]  # Google's base packages ship no annotations
from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]  # as above
from google.pubsub_v1.types import pubsub as types
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # as above

from ductape.adapter import AdapterError, Fault

from ._wire import fault_of, refused_ids

__all__ = [
    "CALL",
    "CLOSE",
    "AckRequest",
    "Api",
    "DeadlineRequest",
    "DeleteSubscription",
    "DeleteTopic",
    "Polls",
    "PublishRequest",
    "PullRequest",
    "Subscription",
    "SubscriptionRequest",
    "Topic",
    "TopicRequest",
    "code_of",
    "details_of",
]

CALL: Final = 8.0
"""Seconds for one call, below the ten that the kernel gives."""

CLOSE: Final = 0.5
"""Seconds for calls that are under way when a channel closes."""
POLLS: Final = 50
"""Polls on one channel: a connection carries about a hundred calls at a time, and a poll is nearly always under way."""

# Bare protobuf classes: the library's own wrappers cost more than all the rest.
PublishRequest: Any = types.PublishRequest.pb()
PullRequest: Any = types.PullRequest.pb()
AckRequest: Any = types.AcknowledgeRequest.pb()
DeadlineRequest: Any = types.ModifyAckDeadlineRequest.pb()
Topic: Any = types.Topic.pb()
TopicRequest: Any = types.GetTopicRequest.pb()
SubscriptionRequest: Any = types.GetSubscriptionRequest.pb()
Subscription: Any = types.Subscription.pb()
DeleteTopic: Any = types.DeleteTopicRequest.pb()
DeleteSubscription: Any = types.DeleteSubscriptionRequest.pb()


class Method(Protocol):
    """One method of the service."""

    async def __call__(self, request: object, /, *, timeout: float, where: str, wrote: bool = False) -> Any:
        """Call it; `where` is the resource, which routes the call and names it in errors."""


class Api:
    """The methods, on one channel."""

    def __init__(self, channel: Any, open_: Callable[[], bool]) -> None:
        """Bind them.

        Args:
            channel: A `grpc.aio.Channel`.
            open_: Tells whether the connection is still open: what fails on a closed one is ``LOST``.
        """
        self._open = open_

        def bound(service: str, name: str, kind: Any, answer: Any, route: str) -> Method:
            call = channel.unary_unary(
                f"/google.pubsub.v1.{service}/{name}",
                request_serializer=kind.SerializeToString,
                response_deserializer=answer.FromString,
            )
            return self._method(call, route)

        self.publish = bound("Publisher", "Publish", PublishRequest, types.PublishResponse.pb(), "topic")
        self.create_topic = bound("Publisher", "CreateTopic", Topic, Topic, "name")
        self.get_topic = bound("Publisher", "GetTopic", TopicRequest, Topic, "topic")
        self.create_subscription = bound("Subscriber", "CreateSubscription", Subscription, Subscription, "name")
        self.get_subscription = bound(
            "Subscriber", "GetSubscription", SubscriptionRequest, Subscription, "subscription"
        )
        self.delete_topic = bound("Publisher", "DeleteTopic", DeleteTopic, Empty, "topic")
        self.delete_subscription = bound("Subscriber", "DeleteSubscription", DeleteSubscription, Empty, "subscription")
        self.pull = bound("Subscriber", "Pull", PullRequest, types.PullResponse.pb(), "subscription")
        self.acknowledge = bound("Subscriber", "Acknowledge", AckRequest, Empty, "subscription")
        self.deadline = bound("Subscriber", "ModifyAckDeadline", DeadlineRequest, Empty, "subscription")

    def check_open(self) -> None:
        """Raise ``LOST`` once the connection is closed."""
        if not self._open():
            raise AdapterError(Fault.LOST, "the connection is closed")

    def _method(self, call: Any, route: str) -> Method:
        async def method(request: object, /, *, timeout: float, where: str, wrote: bool = False) -> Any:
            self.check_open()
            routing = (("x-goog-request-params", f"{route}={quote(where)}"),)
            try:
                return await call(request, timeout=timeout, metadata=routing)
            except grpc.RpcError as error:
                # No variable keeps what is raised: such a frame would hold the call and its socket till a collection.
                raise self._failure(error, where, wrote=wrote) from error
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # The channel was closed under the call.
                raise AdapterError(Fault.AMBIGUOUS if wrote else Fault.LOST, "the connection was closed") from error
            except grpc.aio.UsageError as error:  # it was closed between the check and the call
                raise AdapterError(Fault.LOST, "the connection is closed") from error
            except ValueError as error:  # what protobuf cannot write: its text may quote the value
                raise AdapterError(Fault.MESSAGE, f"{where}: cannot be written: {type(error).__name__}") from None

        return method

    def _failure(self, error: Any, where: str, *, wrote: bool) -> AdapterError:
        result = fault_of(error.code().name, error.details() or "", where, wrote=wrote)
        if not self._open() and result.fault is not Fault.AMBIGUOUS:
            return AdapterError(Fault.LOST, "the connection was closed")
        return result


class Polls:
    """The channels on which polls stay open: another when all are full, none that is empty."""

    def __init__(self, make: Callable[[], Any], open_: Callable[[], bool]) -> None:
        """Begin without any.

        Args:
            make: Opens a `grpc.aio.Channel`.
            open_: As for `Api`.
        """
        self._make, self._open = make, open_
        self._places: dict[Api, Any] = {}
        """The channel of everyone that polls."""

    def join(self) -> Api:
        """Return the methods on a channel that has room; `leave` gives the place back."""
        taken = Counter(self._places.values())
        channel = next((each for each, number in taken.items() if number < POLLS), None) or self._make()
        api = Api(channel, self._open)
        self._places[api] = channel
        return api

    async def leave(self, api: Api) -> None:
        """Give a place back, and close its channel if that was the last one on it. Idempotent."""
        channel = self._places.pop(api, None)
        if channel is not None and channel not in self._places.values():
            await channel.close(CLOSE)

    async def close(self) -> None:
        """Close every channel."""
        channels = set(self._places.values())
        self._places.clear()
        await asyncio.gather(*(channel.close(CLOSE) for channel in channels), return_exceptions=True)


def code_of(error: AdapterError) -> str:
    """Return the name of the gRPC status that an error came from; empty if it came from none."""
    cause = error.__cause__
    return str(cause.code().name) if isinstance(cause, grpc.RpcError) else ""


def details_of(error: AdapterError, where: str) -> dict[str, AdapterError]:
    """Return what an exactly-once subscription answered for single ids, from the details of the error."""
    cause: Any = error.__cause__
    found: dict[str, AdapterError] = {}
    if isinstance(cause, grpc.RpcError):
        for name, value in cause.trailing_metadata() or ():
            if name == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    info = error_details_pb2.ErrorInfo()
                    if detail.Unpack(info):
                        found |= refused_ids(info.metadata, where)
    return found
