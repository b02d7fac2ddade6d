"""What an environment's config may say."""

from __future__ import annotations

import msgspec

__all__ = ["DirectoryConfig"]


class DirectoryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the files are, and how they are used."""

    path: str = "ductape-events"
    """The directory that holds the channels, as seen from the current one."""
    lease: float = 30.0
    """Seconds until a message that nobody settles goes to another member of its group."""
    poll: float = 0.05
    """Seconds between two looks into a group's directory."""
    sync: bool = True
    """A publish is confirmed when the disk has it; without, a crash of the machine may lose the last moment."""
    channel: str | None = None
    """The one channel of this broker, exactly as written."""
    group: str | None = None
    """The default group, exactly as written."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; the kernel adds the place to the text.

        Raises:
            ValueError: Naming the field.
        """
        if not self.path:
            raise ValueError("path: is empty")
        if not 0.2 <= self.lease <= 86_400:
            raise ValueError(f"lease: {self.lease:g} is not between 0.2 and 86400 seconds")
        if not 0.001 <= self.poll <= 10:
            raise ValueError(f"poll: {self.poll:g} is not between 0.001 and 10 seconds")
