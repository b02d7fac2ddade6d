"""Finds adapters and middleware among what is installed, and loads exactly the one that is asked for.

The standard library lists the entry points of a group once: names and distributions, so that a clash is found before
anything is imported. Stevedore then loads the one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ._definitions import provider_name
from .adapter import ADAPTER_API, Adapter
from .errors import AdapterNotUsable, ConfigError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


_ADAPTERS, _MIDDLEWARE = "ductape.adapters", "ductape.middleware"
_PACKAGES = {
    "KAFKA": "ductape-kafka",
    "RABBITMQ": "ductape-rabbitmq",
    "REDIS": "ductape-redis",
    "AWS_SQS": "ductape-sqs",
    "GOOGLE_PUBSUB": "ductape-google-pubsub",
    "NATS": "ductape-nats",
    "MEMORY": "ductape-memory",
    "SQLITE": "ductape-sqlite",
}
_MIDDLEWARE_PACKAGES = {"opentelemetry": "ductape-opentelemetry"}


class Installed(NamedTuple):
    """An adapter that is installed, loaded or not."""

    name: str
    """The provider, in capitals."""
    distribution: str
    version: str


class Registry:
    """Everything that can be asked for by name. Each client has one; without a reason, the default one."""

    def __init__(self) -> None:
        """Look at what is installed, when the first name is asked for."""
        self._listed: dict[str, list[EntryPoint]] = {}
        self._own: dict[str, Mapping[str, Any]] = {}

    @classmethod
    def of(
        cls, adapters: Mapping[str, type[Adapter[Any]] | Adapter[Any]], middleware: Mapping[str, object] | None = None
    ) -> Registry:
        """Return a registry of the given adapters, objects or classes, and no other; likewise middleware, if given."""
        registry = cls()
        registry._own[_ADAPTERS] = {provider_name(name): adapter for name, adapter in adapters.items()}
        if middleware is not None:
            registry._own[_MIDDLEWARE] = middleware
        return registry

    def __repr__(self) -> str:
        return f"<Registry {', '.join(each.name for each in self.installed())}>"

    def installed(self) -> list[Installed]:
        """Return the adapters that are there, without loading them."""
        if _ADAPTERS in self._own:
            return [Installed(name, "", "") for name in sorted(self._own[_ADAPTERS])]
        return sorted(Installed(provider_name(each.name), *_origin(each)) for each in self._entries(_ADAPTERS))

    def adapter(self, provider: str, *, where: str) -> Adapter[Any]:
        """Return a new adapter (a given object is returned as it is).

        Args:
            provider: A provider's type, without regard to case; ``-`` is ``_``.
            where: What asks, as the beginning of a sentence: ``broker 'order-events' uses KAFKA in 'prd'``.

        Raises:
            AdapterNotUsable: ``ADAPTER_NOT_INSTALLED``, ``ADAPTER_UNKNOWN``, ``ADAPTER_AMBIGUOUS`` or
                ``ADAPTER_INCOMPATIBLE``.
        """
        name = provider_name(provider)
        if _ADAPTERS in self._own:
            found = self._own[_ADAPTERS].get(name)
            if found is None:
                raise self._missing(name, where)
            return _checked(found, name, where, "what was given")
        entries = [each for each in self._entries(_ADAPTERS) if provider_name(each.name) == name]
        if not entries:
            raise self._missing(name, where)
        origins = [" ".join(_origin(each)) for each in entries]
        if len(entries) > 1:
            text = f"{where}, which both {' and '.join(sorted(origins))} provide. Uninstall all but one."
            raise AdapterNotUsable("ADAPTER_AMBIGUOUS", text, provider=name)
        try:
            loaded = self._load(_ADAPTERS, entries[0])
        except Exception as error:
            text = f"{where}, but {origins[0]} cannot be loaded: {type(error).__name__}: {error}"
            raise AdapterNotUsable("ADAPTER_INCOMPATIBLE", text, provider=name) from error
        return _checked(loaded, name, where, origins[0])

    def middleware(self, name: str) -> object:
        """Return the middleware of this name; a class is called without arguments.

        Raises:
            ConfigError: ``MIDDLEWARE_NOT_FOUND``, also if two distributions have the name or it cannot be loaded.
        """
        if _MIDDLEWARE in self._own:
            given = self._own[_MIDDLEWARE]
            if name not in given:
                raise _no_middleware(name, given)
            return _made(given[name])
        entries = [each for each in self._entries(_MIDDLEWARE) if each.name == name]
        if not entries:
            raise _no_middleware(name, [each.name for each in self._entries(_MIDDLEWARE)])
        origins = " and ".join(sorted(" ".join(_origin(each)) for each in entries))
        if len(entries) > 1:
            text = f"both {origins} provide middleware {name!r}. Uninstall all but one."
            raise ConfigError("MIDDLEWARE_NOT_FOUND", text, middleware=name)
        try:
            return _made(self._load(_MIDDLEWARE, entries[0]))
        except Exception as error:
            text = f"middleware {name!r} of {origins} cannot be loaded: {type(error).__name__}: {error}"
            raise ConfigError("MIDDLEWARE_NOT_FOUND", text, middleware=name) from error

    def _entries(self, group: str) -> list[EntryPoint]:
        if group not in self._listed:
            from importlib.metadata import entry_points  # slow to import, and not needed for a registry of objects

            self._listed[group] = list(entry_points(group=group))
        return self._listed[group]

    def _load(self, group: str, entry: EntryPoint) -> Any:
        from stevedore import DriverManager

        # Its own list comes from a file under the home folder, keyed too coarsely to notice every upgrade.
        DriverManager.ENTRY_POINT_CACHE[group] = [entry]
        return DriverManager[Any](group, entry.name, invoke_on_load=False).driver

    def _missing(self, name: str, where: str) -> AdapterNotUsable:
        if name in _PACKAGES:
            text = f"{where}. pip install {_PACKAGES[name]}"
            return AdapterNotUsable("ADAPTER_NOT_INSTALLED", text, provider=name, package=_PACKAGES[name])
        there = [each.name for each in self.installed()]
        hint = nearest(name, [*there, *_PACKAGES])
        text = f"{where}, but no adapter has the name {name!r}.{hint} Installed: {', '.join(there) or 'none'}."
        return AdapterNotUsable("ADAPTER_UNKNOWN", text, provider=name)


@cache
def default_registry() -> Registry:
    """Return the registry of what is installed, made once a process."""
    return Registry()


def _origin(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else (entry.value, "")


def _checked(loaded: Any, name: str, where: str, origin: str) -> Adapter[Any]:
    """Return an object of what was loaded, if it keeps to the contract."""
    kind = loaded if isinstance(loaded, type) else type(loaded)
    api, config = getattr(kind, "api", None), getattr(kind, "config", None)
    if not issubclass(kind, Adapter):
        fault = "is no subclass of ductape.adapter.Adapter"
    elif api != ADAPTER_API:
        older = isinstance(api, int) and api < ADAPTER_API
        fault = f"is written for version {api} of the adapter contract, and ductape-core speaks {ADAPTER_API}. "
        fault += "Upgrade the adapter" if older else "Upgrade ductape-core"
    elif not (isinstance(config, type) and issubclass(config, msgspec.Struct)):
        fault = "has no msgspec Struct as its config"
    elif abstract := sorted(getattr(kind, "__abstractmethods__", ())):
        fault = f"lacks {', '.join(abstract)}"
    else:
        return kind() if isinstance(loaded, type) else loaded
    text = f"{where}, but {kind.__name__} ({origin}) {fault}."
    raise AdapterNotUsable("ADAPTER_INCOMPATIBLE", text, provider=name)


def _made(middleware: object) -> object:
    return middleware() if isinstance(middleware, type) else middleware


def _no_middleware(name: str, known: Iterable[str]) -> ConfigError:
    text = f"no middleware {name!r} is installed.{nearest(name, [*known, *_MIDDLEWARE_PACKAGES])}"
    if name in _MIDDLEWARE_PACKAGES:
        text = f"middleware {name!r} is not installed. pip install {_MIDDLEWARE_PACKAGES[name]}"
    return ConfigError("MIDDLEWARE_NOT_FOUND", text, middleware=name)
