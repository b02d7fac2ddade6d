"""A connection: the directory that holds the channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ductape.adapter import (
    AdapterError,
    Capabilities,
    Channel,
    Connection,
    Fault,
    Intake,
    Site,
    translate,
)

from ._config import DirectoryConfig
from ._receiver import DirectoryReceiver
from ._sender import DirectorySender
from ._wire import Run, directory_of, fault_of, safe

__all__ = ["DirectoryConnection"]


class DirectoryConnection(Connection):
    """One process's view of the channels."""

    def __init__(self, config: DirectoryConfig, site: Site, can: Capabilities, run: Run) -> None:
        """Describe a connection; `open` looks whether it works."""
        self.config, self.site, self._can, self._run = config, site, can, run
        self.root = Path(config.path)
        self.closed = False

    async def call(self, *call: Any) -> Any:
        """Do something with files, where it may block; what goes wrong is classified."""
        self.usable()
        with translate(fault_of):
            return await self._run(*call)

    def usable(self) -> None:
        """Raise if it is closed, which whatever was opened from it does as well."""
        if self.closed:
            raise AdapterError(Fault.LOST, "the connection is closed")

    async def open(self) -> None:
        """Make sure that the directory is there."""
        if self.site.create:
            await self.call(lambda: self.root.mkdir(parents=True, exist_ok=True))
        await self.check()

    async def check(self) -> None:
        """Look whether the directory is there."""
        if not await self.call(self.root.is_dir):
            raise AdapterError(Fault.CONFIG, f"{self.root} is no directory")

    def capabilities(self, channel: Channel) -> Capabilities:
        """Return what holds under this config."""
        return self._can

    async def declare(self, channel: Channel) -> None:
        """Create the channel's directory, and its group's in it."""
        path = self._path(channel)
        if channel.group:
            path /= safe(channel.group)
        if self.site.create:
            await self.call(lambda: path.mkdir(parents=True, exist_ok=True))
        elif not await self.call(path.is_dir):
            raise AdapterError(Fault.CONFIG, f"{path} is not there, and may not be created")

    async def sender(self, channel: Channel) -> DirectorySender:
        """Open a sender."""
        await self.check()
        return DirectorySender(self, self._path(channel))

    async def receiver(self, channel: Channel, intake: Intake) -> DirectoryReceiver:
        """Open a receiver; members of a group need not know of one another."""
        await self.declare(msgspec.structs.replace(channel, group=channel.group or intake.group))
        return DirectoryReceiver(self, self._path(channel) / safe(intake.group), intake.window)

    async def close(self) -> None:
        """Close; there is nothing to give back: what is out waits for the end of its lease."""
        self.closed = True

    def _path(self, channel: Channel) -> Path:
        return self.root / directory_of(channel)
