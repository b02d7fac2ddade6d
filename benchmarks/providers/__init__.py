"""Providers on real servers: each is one module with its contestants, so that all are measured alike.

A provider's module has ``CASES``: case to contestant to a coroutine function of the server's address and the number of
messages; ``FILLS``: contestant to the case that loads its backlog; and ``server()``.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from benchmarks.results import Measured

if TYPE_CHECKING:
    from tests.brokers import Server

Run = Callable[[str, int], Awaitable[Measured]]
NAMES = ("redis",)
FILL = "fill"
"""The case that loads a backlog; not measured."""


class Contestant(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who does the work of a case."""

    run: Run
    needs: str = ""
    """A module without which it cannot take part."""
    backlog: str = ""
    """Whose backlog it reads: a contestant of the case `fill`."""
    weight: int = 1
    """How many times the messages of the slowest it gets, so that what is quick is not all opening and closing."""


class Provider(Protocol):
    """What a provider's module offers."""

    CASES: Mapping[str, Mapping[str, Contestant]]
    TITLES: Mapping[str, str]
    SETTINGS: Mapping[str, str]

    def server(self) -> Server:
        """Return its server, not started."""


def provider(name: str) -> Provider:
    """Return a provider's module."""
    return cast(Provider, importlib.import_module(f"{__name__}.{name}"))


async def run(name: str, case: str, contestant: str, url: str, messages: int) -> Measured:
    """Measure one contestant, in this process."""
    return await provider(name).CASES[case][contestant].run(url, messages)
