"""What an environment's config may say."""

from __future__ import annotations

import msgspec

__all__ = ["CamelConfig"]


class CamelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One NAME server. Passwords are of type `Secret`, addresses that may hold one of type `SecretUrl`."""

    server: str = "local"
    """Which server."""
    channel: str | None = None
    """The one queue, exactly as written."""
    group: str | None = None
    """The default group, exactly as written."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; the kernel adds the place to the text."""
        if not self.server:
            raise ValueError("server: is empty")
