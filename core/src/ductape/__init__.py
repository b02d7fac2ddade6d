"""One API for publishing and consuming events over Kafka, RabbitMQ, Redis, SQS, Pub/Sub and NATS."""
