"""SQS FIFO queues on ElasticMQ, in order. It keeps messages in memory: only consumers and connections are killed."""

import collections
from collections.abc import Mapping
from typing import Any, ClassVar

from aiobotocore.session import AioSession  # type: ignore[import-untyped]  # it ships no annotations

from tests.brokers import Sqs
from tests.soak.ground import Ground

REGION, KEYS = "us-east-1", ("soak", "soak")


class SqsGround(Ground):
    """AWS SQS."""

    name: ClassVar[str] = "sqs"
    packages: ClassVar[tuple[str, ...]] = ("ductape-sqs", "aiobotocore", "botocore")
    settings: ClassVar[str] = "ElasticMQ, which keeps everything in memory and is not killed; FIFO queues"
    durable: ClassVar[bool] = False
    ordered: ClassVar[bool] = True
    # ElasticMQ serves some two thousand messages a second.
    messages: ClassVar[int] = 10_000
    pause: ClassVar[float] = 0.1
    # Longer than what a machine that is busy makes processes wait: consumers that end in order must repeat nothing.
    lease: ClassVar[float] = 8.0

    def make(self) -> Sqs:
        """Return ElasticMQ."""
        return Sqs()

    def env(self, port: int | None = None) -> Mapping[str, Any]:
        """Return a short lease, and polls that end soon."""
        keys = {"region": REGION, "accessKeyId": KEYS[0], "secretAccessKey": KEYS[1]}
        endpoint = f"http://127.0.0.1:{port or self.server.port}"
        return {"type": "AWS_SQS", "config": {**keys, "endpoint": endpoint, "lease": int(self.lease), "poll": 1}}

    async def stored(self) -> collections.Counter[str]:
        """Receive and delete all messages of the queue, and count them."""
        counts: collections.Counter[str] = collections.Counter()
        session = AioSession()
        session.set_credentials(*KEYS)
        making = session.create_client("sqs", region_name=REGION, endpoint_url=self.server.url)
        async with making as client:
            queue = (await client.get_queue_url(QueueName="b_t.fifo"))["QueueUrl"]
            request = {"QueueUrl": queue, "MaxNumberOfMessages": 10, "MessageAttributeNames": ["ductape-id"]}
            while messages := (await client.receive_message(**request, WaitTimeSeconds=1)).get("Messages"):
                counts.update(one["MessageAttributes"]["ductape-id"]["StringValue"] for one in messages)
                entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(messages)]
                await client.delete_message_batch(QueueUrl=queue, Entries=entries)
        return counts


GROUND = SqsGround()
