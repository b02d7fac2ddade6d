"""The public header table: what ductape writes beside a body, so that other languages can read and write it too.

The table is versioned and only grows; version N reads what version N-1 wrote.
"""

from __future__ import annotations

from typing import NamedTuple

HEADERS_VERSION = 1
"""The version of the table."""

ID = "ductape-id"
EVENT = "ductape-event"
KEY = "ductape-key"
ATTEMPT = "ductape-attempt"
NOT_BEFORE = "ductape-not-before"
SESSION_TAG = "ductape-session-tag"
SESSION_TOKEN = "ductape-session-token"
DEAD = "ductape-dead-"
DEAD_REASON = "ductape-dead-reason"
DEAD_ERROR = "ductape-dead-error"
DEAD_ATTEMPTS = "ductape-dead-attempts"
DEAD_STORED_AT = "ductape-dead-stored-at"
DEAD_AT = "ductape-dead-at"
DEAD_GROUP = "ductape-dead-group"
DEAD_ORIGIN = "ductape-dead-origin"
CONTENT_TYPE = "content-type"

DEAD_HEADERS = 7
"""How many a dead letter has more than its original."""


class Header(NamedTuple):
    """One row of the table."""

    name: str
    meaning: str
    type: str
    example: str


_ROWS = (
    (ID, "identity of the message; the same in every delivery, retry, dead letter and replay", "text", "f3a9…01c"),
    (EVENT, "name of the event", "broker:topic", "order-events:new-orders"),
    (KEY, "what order is kept within; only where the provider has no key of its own", "text", "cust_789"),
    (CONTENT_TYPE, "codec of the body; the provider's own field where it has one", "media type", "application/json"),
    (ATTEMPT, "attempts that failed before this copy was stored", "integer", "3"),
    (NOT_BEFORE, "no handler runs before this instant", "seconds since 1970", "1795440000.25"),
    (SESSION_TAG, "tag of the publisher's session", "text", "user-session"),
    (SESSION_TOKEN, "token of the publisher's session; never logged or traced", "text", "eyJ…"),
    (DEAD_REASON, "why it is a dead letter", "exhausted, rejected, unreadable, crash-loop, unmatched", "exhausted"),
    (DEAD_ERROR, "class and text of the last error, cut to fit", "text", "ValueError: no such customer"),
    (DEAD_ATTEMPTS, "attempts that were made", "integer", "5"),
    (DEAD_STORED_AT, "when the original was stored, where the broker tells", "RFC 3339", "2026-11-23T10:00:00Z"),
    (DEAD_AT, "when the dead letter was written", "RFC 3339", "2026-11-23T10:01:07Z"),
    (DEAD_GROUP, "group whose handler failed", "text", "billing"),
    (DEAD_ORIGIN, "where the original was stored", "text", "orders[3]@1042"),
    ("traceparent", "W3C trace context of the publisher", "see W3C Trace Context", "00-4bf9…-01"),
    ("baggage", "W3C baggage of the publisher", "see W3C Baggage", "tenant=blue"),
)
HEADERS = tuple(Header(*row) for row in _ROWS)
"""The table, one row a header."""
