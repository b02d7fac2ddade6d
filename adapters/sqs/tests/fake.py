"""A small SQS on loopback that does what a test's script says: throttles, fails entries, drops answers, hangs."""

import asyncio
import contextlib
import itertools
import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Self

from aiohttp import web

Body = dict[str, Any]
Step = Callable[["FakeSqs", str, Body], Awaitable[web.StreamResponse]]
QUEUE_URL = "https://sqs.us-east-1.amazonaws.com/000000000000/"


class Dropped(Exception):
    """The connection breaks in place of an answer."""


class Asked(NamedTuple):
    """One request."""

    operation: str
    body: Body
    headers: Mapping[str, str]
    raw: bytes


class FakeSqs:
    """Queues in a dict. `script` gives the next requests of an operation one step each; the rest is done as SQS does.

    Attributes:
        asked: Every request, in order.
        waiting: The messages of each queue, by its URL.
        out: Messages that were received, by receipt.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.attributes: dict[str, dict[str, str]] = {}
        self.waiting: dict[str, list[Body]] = {}
        self.out: dict[str, tuple[str, Body]] = {}
        self.changed: dict[str, list[int]] = defaultdict(list)
        self.busy: dict[str, int] = defaultdict(int)
        self.peak: dict[str, int] = defaultdict(int)
        self.url = ""
        self._scripts: dict[str, deque[Step]] = defaultdict(deque)
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/", self._handle)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def script(self, operation: str, *steps: Step) -> None:
        self._scripts[operation].extend(steps)

    def of(self, operation: str) -> list[Asked]:
        return [one for one in self.asked if one.operation == operation]

    def add(self, name: str, **attributes: str) -> str:
        url = QUEUE_URL + name
        self.attributes[url], self.waiting[url] = attributes, []
        return url

    def put(self, url: str, body: str, **more: Any) -> None:
        number = next(self._numbers)
        self.waiting[url].append({"MessageId": f"id{number}", "Body": body, **more})
        self._arrived.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        operation = request.headers["X-Amz-Target"].partition(".")[2]
        raw = await request.read()
        body: Body = json.loads(raw)
        self.asked.append(Asked(operation, body, dict(request.headers), raw))
        self.busy[operation] += 1
        self.peak[operation] = max(self.peak[operation], self.busy[operation])
        try:
            steps = self._scripts[operation]
            return await (steps.popleft() if steps else act)(self, operation, body)
        except Dropped:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        finally:
            self.busy[operation] -= 1

    async def do(self, operation: str, body: Body) -> Body | None:
        """What SQS does; None: the queue is missing."""
        if operation == "CreateQueue":
            return {"QueueUrl": self.add(body["QueueName"], **body.get("Attributes", {}))}
        if operation == "GetQueueUrl":
            url = QUEUE_URL + body["QueueName"]
            return {"QueueUrl": url} if url in self.attributes else None
        url = body["QueueUrl"]
        if url not in self.attributes:
            return None
        if operation == "GetQueueAttributes":
            number = str(len(self.waiting[url]))
            return {"Attributes": {**self.attributes[url], "ApproximateNumberOfMessages": number}}
        if operation == "ReceiveMessage":
            return await self._receive(url, body)
        gone = [each for each in body["Entries"] if each.get("ReceiptHandle", "") not in {"", *self.out}]
        failed = [{"Id": each["Id"], "Code": "ReceiptHandleIsInvalid", "SenderFault": True} for each in gone]
        good = [self._entry(operation, url, entry) for entry in body["Entries"] if entry not in gone]
        return {"Successful": good, "Failed": failed}

    async def _receive(self, url: str, body: Body) -> Body:
        if not self.waiting[url]:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), body.get("WaitTimeSeconds", 0))
        taken = self.waiting[url][: body["MaxNumberOfMessages"]]
        del self.waiting[url][: len(taken)]
        for message in taken:
            message["ReceiptHandle"] = f"receipt{next(self._numbers)}"
            count = int(message.setdefault("Attributes", {}).get("ApproximateReceiveCount", 0)) + 1
            message["Attributes"] |= {"ApproximateReceiveCount": str(count), "SentTimestamp": "1795440000000"}
            self.out[message["ReceiptHandle"]] = (url, dict(message))
        return {"Messages": taken} if taken else {}

    def _entry(self, operation: str, url: str, entry: Body) -> Body:
        if operation == "SendMessageBatch":
            more = {"MessageAttributes": entry.get("MessageAttributes", {})}
            self.put(url, entry["MessageBody"], **more)
            return {"Id": entry["Id"], "MessageId": self.waiting[url][-1]["MessageId"]}
        if operation == "ChangeMessageVisibilityBatch":
            self.changed[entry["ReceiptHandle"]].append(entry["VisibilityTimeout"])
            if entry["VisibilityTimeout"]:
                return {"Id": entry["Id"]}
        _, message = self.out.pop(entry["ReceiptHandle"])
        if operation == "ChangeMessageVisibilityBatch":
            self.waiting[url].append(message)
            self._arrived.set()
        return {"Id": entry["Id"]}


async def act(fake: FakeSqs, operation: str, body: Body) -> web.StreamResponse:
    """Do as SQS does."""
    answer = await fake.do(operation, body)
    if answer is None:
        return refusal(400, "com.amazonaws.sqs#QueueDoesNotExist")
    return web.json_response(answer, content_type="application/x-amz-json-1.0")


def refusal(status: int, code: str) -> web.Response:
    return web.json_response({"__type": code, "message": "the payload is 4711"}, status=status)


def refuse(status: int, code: str) -> Step:
    """Refuse the call as a whole."""

    async def step(fake: FakeSqs, operation: str, body: Body) -> web.StreamResponse:
        return refusal(status, code)

    return step


def fail(codes: Mapping[int, tuple[str, bool]]) -> Step:
    """Fail entries of a batch by their place: (code, whether the sender is at fault); the others go well."""

    async def step(fake: FakeSqs, operation: str, body: Body) -> web.StreamResponse:
        entries = body["Entries"]
        good = [entry for place, entry in enumerate(entries) if place not in codes]
        answer = await fake.do(operation, {**body, "Entries": good}) or {}
        answer.setdefault("Failed", []).extend(
            {"Id": entries[place]["Id"], "Code": code, "SenderFault": fault, "Message": "the payload is 4711"}
            for place, (code, fault) in codes.items()
        )
        return web.json_response(answer)

    return step


def drop(*, done: bool) -> Step:
    """Break the connection in place of an answer; the work is done, or not."""

    async def step(fake: FakeSqs, operation: str, body: Body) -> web.StreamResponse:
        if done:
            await fake.do(operation, body)
        raise Dropped

    return step


def hang(until: asyncio.Event) -> Step:
    """Answer when the test says so."""

    async def step(fake: FakeSqs, operation: str, body: Body) -> web.StreamResponse:
        await until.wait()
        return await act(fake, operation, body)

    return step


def say(text: str) -> Step:
    """Answer well, with this text."""

    async def step(fake: FakeSqs, operation: str, body: Body) -> web.StreamResponse:
        return web.Response(text=text)

    return step
