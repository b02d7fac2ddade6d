"""Which broker, adapter, connection and channel belongs to an event: worked out from the catalog, once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ._bounds import Bounds
from ._catalog import Catalog
from ._clock import Clock, SystemClock
from ._codec import Codecs
from ._config import read_config
from ._connections import Link
from ._handling import Verify
from ._outbox import Pressure
from ._places import Place, locate
from ._registry import Registry
from .adapter import Adapter, Site


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a client was made with."""

    product: str
    env: str
    catalog: Catalog
    registry: Registry
    middleware: Sequence[object]
    codecs: Codecs
    sessions: Mapping[str, Verify]
    deadline: float
    grace: float
    pressure: Pressure
    environ: Mapping[str, str] = os.environ
    clock: Callable[[], Clock] = SystemClock
    substitute: Callable[[str], Adapter[Any]] | None = None
    """Gives the adapter for every provider, and configs are not read: for tests."""
    watch: Callable[[Any], Any] | None = None
    """Takes every `Declaration` that is opened, and returns what is opened in its place: for tests."""

    def __repr__(self) -> str:
        return f"<Settings product={self.product!r} env={self.env!r}>"  # environ holds the process's secrets


class Atlas:
    """The places of events, and the links to their brokers."""

    def __init__(self, settings: Settings, bounds: Bounds) -> None:
        """Begin empty."""
        self.links: dict[tuple[str, str], Link] = {}
        self._settings, self._bounds = settings, bounds
        self._adapters: dict[str, Adapter[Any]] = {}
        self._places: dict[tuple[str, str], Place] = {}

    async def place(self, event: str, env: str | None = None) -> Place:
        """Work out where an event lives; raises `CatalogError` or `ConfigError`."""
        env = env or self._settings.env
        place = self._places.get((event, env))
        if place is None:
            catalog = self._settings.catalog
            topic = await catalog.topic(event)
            if self._settings.substitute is not None:  # addresses are configuration: their variables may be missing
                topic = msgspec.structs.replace(topic, queue_url={})
            link = await self.link(topic.broker, env)
            place = locate(topic, link, env=env, environ=self._settings.environ)
            if not place.alone and len(await catalog.topics(topic.broker)) == 1:
                place = msgspec.structs.replace(place, alone=True)
            self._places[event, env] = place
        return place

    async def link(self, tag: str, env: str | None = None) -> Link:
        """Return the link to a broker; raises `CatalogError` or `ConfigError`."""
        env = env or self._settings.env
        link = self.links.get((tag, env))
        if link is None:
            settings = self._settings
            broker = await settings.catalog.broker(tag)
            chosen = broker.env(env)
            where = f"broker {tag!r}, env {env!r}"
            adapter = self._adapter(chosen.type, f"broker {tag!r} uses {chosen.type} in {env!r}")
            provider, raw = chosen.type, chosen.config
            if settings.substitute is not None:
                provider, raw = f"{provider} (imitated)", {}
            config = read_config(raw, adapter.config, where=where, environ=settings.environ)
            site = Site(
                product=settings.product,
                env=env,
                broker=tag,
                clock=self._bounds.clock,
                log=logging.getLogger(f"ductape.adapter.{chosen.type.lower()}"),
                create=chosen.create,
            )
            link = self.links[tag, env] = Link(provider, adapter, config, site, self._bounds)
        return link

    def _adapter(self, provider: str, where: str) -> Adapter[Any]:
        if provider not in self._adapters:
            make = self._settings.substitute or partial(self._settings.registry.adapter, where=where)
            self._adapters[provider] = make(provider)
        return self._adapters[provider]
