"""Which catalog, product and environment a command is about."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from ductape import Broker, Ductape
from ductape.adapter import AdapterError, Fault
from ductape.errors import CatalogError, ConfigError, nearest

from ._out import Out

__all__ = ["Json", "Where", "above", "absent", "closing", "declared_envs", "loaded", "looking"]

MANIFESTS = ("ductape.toml", "ductape.yaml", "ductape.yml", "ductape.json")
Json = Annotated[bool, Parameter(name="--json", negative="", help="Write JSON, for programs.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """What every command takes that asks a broker or a catalog."""

    catalog: Annotated[Path | None, Parameter(env_var="DUCTAPE_CATALOG")] = None
    """Manifest or JSON store; without it, `ductape.toml`, `.yaml` or `.json` of the current folder."""
    product: Annotated[str | None, Parameter(env_var="DUCTAPE_PRODUCT")] = None
    """The product; without it, the one that the catalog names."""
    env: Annotated[str | None, Parameter(env_var="DUCTAPE_ENV")] = None
    """The environment; without it, the only one that the catalog has."""
    app: Annotated[str | None, Parameter(env_var="DUCTAPE_APP")] = None
    """Instead of a catalog: `module:name` of a `Ductape` object, whose declarations are used."""
    json: Json = False

    @property
    def out(self) -> Out:
        """Where to write."""
        return Out(json=self.json)

    def client(self, **options: Any) -> Ductape:
        """Return a client, not open.

        Raises:
            CatalogError: There is no catalog, or it cannot be read.
            ConfigError: ``OPTION_INVALID``: product or environment must be said.
        """
        if self.app is not None:
            return self._of_app(self.app)
        path = self.path()
        try:
            product, envs = told(path)
        except (OSError, ValueError, ImportError):  # its store tells what is wrong with the file
            return Ductape(product=self.product or "unread", env=self.env or "unread", catalog=path)
        product = self.product or product
        if product is None:
            text = f"{path} does not name one product: say which with --product."
            raise ConfigError("OPTION_INVALID", text, option="product")
        env = self.env or (next(iter(envs)) if len(envs) == 1 else None)
        if env is None:
            has = f"several environments: say which with --env. There are {', '.join(sorted(envs))}."
            text = f"{path} has {has if envs else 'no environment: declare a broker, or say which with --env.'}"
            raise ConfigError("OPTION_INVALID", text, option="env")
        return Ductape(product=product, env=env, catalog=options.pop("catalog", path), **options)

    def _of_app(self, app: str) -> Ductape:
        """Return the client of `app`; what is said beside it must be so."""
        if self.catalog is not None:
            text = f"--app {app} brings its own catalog: leave --catalog (DUCTAPE_CATALOG) out, or --app (DUCTAPE_APP)."
            raise ConfigError("OPTION_INVALID", text, option="catalog")
        client = loaded(app)
        for option, said, has in (("product", self.product, client.product), ("env", self.env, client.env)):
            if said not in (None, has):
                text = f"--{option} {said} (or DUCTAPE_{option.upper()}): {app} is of {option} {has}. Leave one out."
                raise ConfigError("OPTION_INVALID", text, option=option)
        return client

    def path(self) -> Path:
        """Return the catalog's file.

        Raises:
            CatalogError: ``CATALOG_INVALID``: there is none.
        """
        if self.catalog is not None:
            if not self.catalog.exists():
                raise CatalogError("CATALOG_INVALID", f"{self.catalog}: no such file.", path=str(self.catalog))
            return self.catalog
        for name in MANIFESTS:
            if Path(name).exists():
                return Path(name)
        text = (
            f"no {', '.join(MANIFESTS[:2])} or {MANIFESTS[-1]} here. Name one with --catalog, or a client with --app."
        )
        raise CatalogError("CATALOG_INVALID", text)


def told(path: Path) -> tuple[str | None, set[str]]:
    """Return the product that a catalog names, and its environments.

    Raises:
        OSError, ValueError, ImportError: The file cannot be read.
    """
    raw = _decoded(path)
    body: Any = raw if isinstance(raw, dict) else {}
    product = body.get("product")
    products = body.get("products")
    if isinstance(products, dict) and len(products) == 1:
        [(product, body)] = products.items()
    brokers: list[Any] = body.get("broker", body.get("brokers")) or []
    envs = [
        env for broker in brokers if isinstance(broker, dict) for env in broker.get("env", broker.get("envs")) or []
    ]
    return product, {str(env["slug"]) for env in envs if isinstance(env, dict) and "slug" in env}


def _decoded(path: Path) -> object:
    data = path.read_bytes()
    if path.suffix == ".toml":
        return msgspec.toml.decode(data)
    return msgspec.json.decode(data) if path.suffix == ".json" else msgspec.yaml.decode(data)


@asynccontextmanager
async def closing(client: Ductape) -> AsyncIterator[Ductape]:
    """Give a client that begins with its first use, and close it: what its app subscribes to is not opened."""
    try:
        yield client
    finally:
        await client.close()


async def looking(declared: Ductape, *, creates: bool = False) -> Ductape:
    """Return a client of the same brokers and topics, without an app's subscriptions, middleware and checks.

    Args:
        declared: Whose.
        creates: Whether it may create what the declarations say that may be created; else it creates nothing.
    """
    client = Ductape(product=declared.product, env=declared.env, registry=declared._settings.registry)
    for broker in await declared.broker.fetch_all():
        envs: Any = [
            {"slug": env.slug, "type": env.type, "config": env.config, "create": creates and env.create}
            for env in broker.envs
        ]
        await client.broker.create(tag=broker.tag, envs=envs)
    for topic in await declared.broker.topic.fetch_all():
        fields: Any = {"order": topic.order, "groups": topic.groups, "options": topic.options}
        await client.broker.topic.create(tag=topic.tag, queue_url=topic.queue_url, **fields)
    return client


def absent(error: AdapterError) -> str:
    """Return what is missing, where that is all that is wrong; no server's own refusal has the contract's words."""
    missing, words, _ = error.text.partition("may not be created")
    found = missing.removesuffix(" ").removesuffix(" it").removesuffix(" and").rstrip(",")
    return found if words and error.fault is Fault.CONFIG else ""


def declared_envs(brokers: Iterable[Broker]) -> str:
    """Say which environments there are."""
    slugs = sorted({env.slug for broker in brokers for env in broker.envs})
    return f"There are {', '.join(slugs)}." if slugs else "No broker is declared at all."


def above(option: str, value: float | None, *, least: int = 0) -> None:
    """Refuse a number that is too small to mean anything: it is above 0, or `least` at least.

    Raises:
        ConfigError: ``OPTION_INVALID``.
    """
    if value is not None and (value < least or value <= 0):
        must = f"{least} at least" if least else "seconds, above 0"
        raise ConfigError("OPTION_INVALID", f"--{option} {value:g}: it is {must}.", option=option)


def loaded(target: str) -> Ductape:
    """Import a client by ``module:name``; the current folder comes first.

    Raises:
        ConfigError: ``OPTION_INVALID``: there is none of that name.
    """
    module, colon, name = target.partition(":")
    where = f"{target!r}"
    if not (module and colon and name):
        raise ConfigError("OPTION_INVALID", f"{where}: write it as module:name, such as shop.service:ductape.")
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        if missing and f"{module}.".startswith(f"{missing}."):
            text = f"{where}: there is no module {missing!r} here or among what is installed."
            raise ConfigError("OPTION_INVALID", text) from None
        text = f"{where}: to import {module} failed{_at(error)}: {type(error).__name__}: {error}. It is shown whole by "
        raise ConfigError("OPTION_INVALID", f'{text}`python -c "import {module}"`.') from error
    value: Any = getattr(found, name, None)
    value = value() if callable(value) and not isinstance(value, Ductape) else value
    if not isinstance(value, Ductape):
        clients = [each for each, one in vars(found).items() if isinstance(one, Ductape)]
        hint = nearest(name, clients) or (f" There is {', '.join(clients)}." if clients else "")
        text = f"{where}: {module} has no Ductape object of this name, and no function that returns one.{hint}"
        raise ConfigError("OPTION_INVALID", text)
    return value


def _at(error: Exception) -> str:
    """Say where it was raised: the last line of code that is a file's."""
    if isinstance(error, SyntaxError):
        return f" at {error.filename} line {error.lineno}"
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<frozen")]
    return f" at {frames[-1].filename} line {frames[-1].lineno}" if frames else ""
