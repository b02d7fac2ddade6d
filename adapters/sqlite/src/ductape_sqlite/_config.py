"""What an environment's config may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

__all__ = ["SqliteConfig"]


class SqliteConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One SQLite file, and how its channels are used."""

    path: str = "ductape.db"
    """The file, as seen from the current directory; created where it is missing, its folder too."""
    synchronous: Literal["extra", "full", "normal", "off"] = "full"
    """What a confirmed publish survives. ``full``, ``extra``: the loss of power. ``normal``, ``off``: the kill of any
    process, not that of the machine; a loss of power can damage the file at ``off``."""
    busy_timeout: float = 5.0
    """Seconds for which a call waits while another process has the file locked."""
    channel: str | None = None
    """The one channel, exactly as written."""
    group: str | None = None
    """The default group, exactly as written."""
    lease: float = 30.0
    """Seconds after which a message whose consumer is silent goes to another member of its group."""
    max_length: int | None = 10_000
    """Settled messages that a channel keeps as history; None: any number. Others are never dropped, however many."""
    max_bytes: int | None = None
    """Drop the oldest settled messages when a channel has more bytes than this; None: any number."""
    max_age: float | None = None
    """Drop settled messages that are older than this many seconds; None: however old."""
    native: Mapping[str, str | int] = {}
    """Pragmas of every connection, such as ``cache_size``, as they are; set last."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; the kernel makes a ``CONFIG_INVALID`` with its place of it.

        Raises:
            ValueError: Naming the field.
        """
        problem = _path_problem(self.path) or _number_problem(self) or _native_problem(self.native)
        for field in ("channel", "group"):
            if getattr(self, field) == "":
                problem = f"{field}: is empty"
        if problem:
            raise ValueError(problem)


def _path_problem(path: str) -> str:
    if not path or "\0" in path:
        return "path: is empty" if not path else "path: holds a null character"
    if path == ":memory:" or path.startswith("file:"):
        return f"path: {path!r} is no path of a file; for a broker in memory use the provider MEMORY"
    return ""


def _number_problem(config: SqliteConfig) -> str:
    if not 0.1 <= config.busy_timeout <= 8:
        return f"busy_timeout: {config.busy_timeout:g} is not between 0.1 and 8 seconds"
    if not 0.2 <= config.lease <= 86_400:
        return f"lease: {config.lease:g} is not between 0.2 and 86400 seconds"
    for field in ("max_length", "max_bytes", "max_age"):
        value = getattr(config, field)
        if value is not None and value < 0:
            return f"{field}: {value:g} is negative"
    return ""


def _native_problem(native: Mapping[str, str | int]) -> str:
    for name, value in native.items():
        if not name.isidentifier():
            return f"native: {name!r} is no name of a pragma"
        if isinstance(value, str) and not value.isidentifier():
            return f"native.{name}: {value!r} is neither a word nor a number"
        if name in ("journal_mode", "locking_mode", "synchronous", "busy_timeout"):
            other = "config has a field for it" if name in ("synchronous", "busy_timeout") else "groups rely on it"
            return f"native.{name}: cannot be set here, {other}"
    return ""
