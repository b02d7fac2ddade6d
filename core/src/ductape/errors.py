"""Every error that ductape raises, in one tree.

```text
DuctapeError                    code, text, fields; the native error is its __cause__
├── CatalogError                BROKER_NOT_FOUND  TOPIC_NOT_FOUND  ENV_NOT_FOUND  PRODUCT_NOT_FOUND  BROKER_EXISTS
│                               TOPIC_EXISTS  TAG_INVALID  TAG_MISMATCH  CATALOG_READ_ONLY  CATALOG_INVALID
├── ConfigError                 CONFIG_INVALID  VARIABLE_MISSING  OPTION_INVALID  MIDDLEWARE_NOT_FOUND
│   └── AdapterNotUsable        ADAPTER_NOT_INSTALLED  ADAPTER_UNKNOWN  ADAPTER_AMBIGUOUS  ADAPTER_INCOMPATIBLE
├── CapabilityError             CAPABILITY_MISSING
├── HandlerError                HANDLER_INVALID
├── PayloadError                PAYLOAD_INVALID  PAYLOAD_UNREADABLE  HEADER_INVALID
│   └── MessageTooLarge         MESSAGE_TOO_LARGE
├── PublishError                PUBLISH_FAILED  PUBLISH_TIMEOUT; ``stored`` says "no" or "maybe"
│   ├── Overloaded              OVERLOADED
│   └── ManyFailed              PUBLISH_FAILED; ``results`` has a receipt or an error for every message
├── OpenError                   CONNECT_FAILED  SUBSCRIBE_FAILED
├── StateError                  CLOSED  WRONG_LOOP  ALREADY_OPEN  ALREADY_SUBSCRIBED
│                               ALREADY_SETTLED  NOT_SETTLED
├── HandlerTimeout              HANDLER_TIMEOUT
└── AdapterError                ADAPTER_FAILURE; ``fault`` says what the kernel may do (raised by adapters only)
```

A text says what happened, where, and what to do about it. It never holds a secret or a payload.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

__all__ = [
    "AdapterError",
    "AdapterNotUsable",
    "CapabilityError",
    "CatalogError",
    "ConfigError",
    "DuctapeError",
    "Fault",
    "HandlerError",
    "HandlerTimeout",
    "ManyFailed",
    "MessageTooLarge",
    "OpenError",
    "Overloaded",
    "PayloadError",
    "PublishError",
    "StateError",
    "nearest",
]


class DuctapeError(Exception):
    """The root. `code` is stable and made for programs; the text is made for people.

    Attributes:
        code: A stable upper-case word, such as ``BROKER_NOT_FOUND``.
        text: What the exception's own text says after the code.
        fields: What the text speaks of, by name (``broker``, ``topic``, ``env``, ``path`` …).
    """

    def __init__(self, code: str, text: str, **fields: object) -> None:
        """Build an error whose text begins with its code.

        Args:
            code: The stable code.
            text: What happened, where, and what to do.
            **fields: The names that the text speaks of.
        """
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.fields = fields


class CatalogError(DuctapeError):
    """A broker, topic, environment or product is missing, there already, or named wrongly."""


class ConfigError(DuctapeError):
    """A configuration or an option cannot be used as it is."""


class AdapterNotUsable(ConfigError):
    """The adapter of a provider is not installed, or what is installed cannot be used."""


class CapabilityError(DuctapeError):
    """The provider cannot do what a publisher or subscription asks for; raised when it opens, never later."""


class HandlerError(DuctapeError):
    """A handler's signature cannot be served."""


class PayloadError(DuctapeError):
    """A payload or a header cannot be written, or a body cannot be read."""


class MessageTooLarge(PayloadError):
    """A message exceeds what the channel takes."""


class PublishError(DuctapeError):
    """A message was not confirmed.

    Attributes:
        stored: ``"no"`` if it is certain that the broker did not store it, else ``"maybe"``: then publish again
            with the same `id`, so that consumers can tell.
    """

    def __init__(self, code: str, text: str, *, stored: str, **fields: object) -> None:
        """Build the error; `stored` is ``"no"`` or ``"maybe"``."""
        super().__init__(code, text, stored=stored, **fields)
        self.stored = stored


class Overloaded(PublishError):
    """Too many messages wait to be stored, and none left within the deadline."""


class ManyFailed(PublishError):
    """Some messages of a `publish_many` were not confirmed; the others were.

    Attributes:
        results: A receipt or a `PublishError` for every message, in order.
    """

    def __init__(self, text: str, *, stored: str, results: Sequence[object]) -> None:
        """Build the error from every message's result."""
        super().__init__("PUBLISH_FAILED", text, stored=stored)
        self.results = results


class OpenError(DuctapeError):
    """A connection, publisher or subscription could not be opened."""


class StateError(DuctapeError):
    """A call came at the wrong time: after close, from another event loop, or twice."""


class HandlerTimeout(DuctapeError):
    """A handler ran longer than its subscription's `timeout` and was ended."""


class Fault(enum.Enum):
    """What a failure means to the kernel: the only question an adapter answers about an error."""

    TRANSIENT = "transient"
    """Nothing happened; the same call may be made again."""
    AMBIGUOUS = "ambiguous"
    """It may have happened; repeat it with the same id."""
    MESSAGE = "message"
    """This one message can never work here; others can."""
    CONFIG = "config"
    """Nothing works until an operator changes something: credentials, rights, names."""
    LOST = "lost"
    """This object, epoch or lease is dead; open a new one."""


class AdapterError(DuctapeError):
    """A classified failure of a broker or its client. The text holds no secret and no payload.

    Attributes:
        fault: What the kernel may do about it.
        advice: What to look at if this kept something from opening; empty where the text says it.
    """

    def __init__(self, fault: Fault, text: str) -> None:
        """Classify a failure.

        Args:
            fault: What it means to the kernel.
            text: What failed, without secrets and payloads.
        """
        super().__init__("ADAPTER_FAILURE", text.rstrip("."), fault=fault.value)
        self.fault = fault
        away = fault in (Fault.TRANSIENT, Fault.LOST)
        self.advice = " Is the server there, and is the address right?" if away else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known word that is most alike, or nothing."""
    from difflib import get_close_matches  # only errors need it

    match = get_close_matches(word.lower(), {name.lower(): name for name in known}, 1, 0.6)
    return next((f" Did you mean {name!r}?" for name in known if match and name.lower() == match[0]), "")
