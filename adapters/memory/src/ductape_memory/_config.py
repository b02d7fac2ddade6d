"""What a user may write under ``config`` of a memory broker."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["MemoryConfig"]


class MemoryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration of one memory broker.

    Connections of one event loop that name the same broker share it.
    """

    name: str = "default"
    """Which broker of this event loop."""
    imitate: Literal["queue", "log", "stream", "lossy"] = "queue"
    """Which kind of broker it behaves like."""
    lease: float = 30.0
    """Seconds until an unsettled delivery goes to somebody else (queue and stream)."""
    partitions: int = 4
    """Partitions of a channel (log)."""
    max_messages: int = 100_000
    """Messages of one channel that may be stored and not settled; publishers wait when it is reached."""
    max_bytes: int = 256 * 1024 * 1024
    """The same bound in bytes, roughly counted."""
    buffer: int = 10_000
    """Messages that wait for one receiver before more are dropped (lossy)."""
    channel: str | None = None
    """The one physical channel of this broker, exactly as written."""
    group: str | None = None
    """The default group, exactly as written."""

    def __post_init__(self) -> None:
        """Refuse numbers that nothing could work with."""
        for field in ("lease", "partitions", "max_messages", "max_bytes", "buffer"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be greater than 0")
