"""Where a catalog is kept: in memory, in a JSON store, or in a manifest that a person wrote.

A store has two methods, and an edit is a pure function from contents to contents: it runs on what is stored at that
moment, under the store's lock, and a store writes only what an edit changed.

A file is a manifest if its name ends in ``.toml``, ``.yaml`` or ``.yml``, or if it is JSON with ``broker`` or ``topic``
at its top; ductape never writes into one. Every other ``.json`` file is a store, and made with the first change.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from ._config import read
from ._definitions import Broker, Topic, make_broker, make_topic
from .errors import CatalogError, DuctapeError

_LOCK_SECONDS = 10.0
_MANIFESTS = (".toml", ".yaml", ".yml")
D = TypeVar("D", Broker, Topic)


class Contents(msgspec.Struct, frozen=True):
    """Everything that one product has declared, by tag."""

    brokers: Mapping[str, Broker] = {}
    topics: Mapping[str, Topic] = {}


Edit = Callable[[Contents], Contents]
"""Returns what shall be stored: the same object, if nothing shall change. It may raise, and may run in a thread."""


class Store(Protocol):
    """Keeps the catalogs of products. Any object with these two methods can be given as ``Ductape(catalog=…)``."""

    async def read(self, product: str) -> Contents:
        """Return what is stored now; empty for a product that has nothing yet."""
        ...

    async def change(self, product: str, edit: Edit) -> Contents:
        """Apply `edit` to what is stored now, in such a way that no other change comes between; return its result.

        Raises:
            CatalogError: ``CATALOG_READ_ONLY`` if the edit changes something that may not be written.
        """
        ...


def open_store(catalog: str | os.PathLike[str] | Store | None) -> Store:
    """Return the store that a user means: None is memory, a path is a file, a store is itself.

    Raises:
        CatalogError: ``CATALOG_INVALID`` for anything else.
    """
    if catalog is None:
        return MemoryStore()
    if isinstance(catalog, str | os.PathLike):
        return FileStore(catalog)
    if callable(getattr(catalog, "read", None)) and callable(getattr(catalog, "change", None)):
        return catalog
    raise CatalogError("CATALOG_INVALID", f"catalog={catalog!r}: give a path, a store, or nothing.")


class MemoryStore:
    """Forgets everything with the process."""

    def __init__(self) -> None:
        """Begin empty."""
        self._products: dict[str, Contents] = {}

    def __repr__(self) -> str:
        return "<MemoryStore>"

    async def read(self, product: str) -> Contents:
        """Return what is stored now."""
        return self._products.get(product, Contents())

    async def change(self, product: str, edit: Edit) -> Contents:
        """Apply `edit`; nothing comes between, since it does not wait."""
        self._products[product] = edit(self._products.get(product, Contents()))
        return self._products[product]


class FileStore:
    """A JSON store that several processes may write, or a manifest that nobody writes but its author."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name a file; nothing is read yet.

        Raises:
            CatalogError: ``CATALOG_INVALID`` for a name that says no format.
        """
        self.path = os.fspath(path)
        self._ending = os.path.splitext(self.path)[1].lower()
        self._guard = threading.Lock()  # reads run in threads
        self._version: object = None
        self._data: bytes | None = None
        self._file = _File()
        if self._ending not in (*_MANIFESTS, ".json"):
            raise CatalogError("CATALOG_INVALID", f"catalog {self.path!r}: name a .json, .toml, .yaml or .yml file.")

    def __repr__(self) -> str:
        return f"<FileStore {self.path}>"

    async def read(self, product: str) -> Contents:
        """Return what the file says now; it is parsed again only after it changed."""
        file = await asyncio.to_thread(self._read)
        return file.contents(product, self.path)

    async def change(self, product: str, edit: Edit) -> Contents:
        """Apply `edit` under a lock between processes, to what the file says then; replace the file as a whole.

        Raises:
            CatalogError: ``CATALOG_READ_ONLY`` for a manifest, ``CATALOG_INVALID`` if it cannot be written.
        """
        return await asyncio.to_thread(self._change, product, edit)

    def _change(self, product: str, edit: Edit) -> Contents:
        file = self._read()
        if file.manifest:
            before = file.contents(product, self.path)
            if edit(before) is not before:
                text = f"{self.path} is a manifest, which ductape never rewrites. Edit it, or keep a .json catalog."
                raise CatalogError("CATALOG_READ_ONLY", text, path=self.path)
            return before
        path = os.path.realpath(self.path)
        with self._told(), locked(path + ".lock", _LOCK_SECONDS):
            file = self._read(fresh=True)
            before = file.contents(product, self.path)
            after = edit(before)
            if after is not before:
                file, data = file.changed(product, after, self.path)
                write_whole(path, data)
                with self._guard:
                    self._file, self._data = file, data
            return after

    def _read(self, *, fresh: bool = False) -> _File:
        """Return what the file says; `fresh`: two writes in one tick of the file system's clock may look alike."""
        with self._guard, self._told():
            try:
                stat = os.stat(self.path)
                version = stat.st_ino, stat.st_mtime_ns, stat.st_size
                if fresh or version != self._version:
                    with open(self.path, "rb") as file:
                        data = file.read()
                    if data != self._data:
                        self._file, self._data = _File.parsed(data, self._ending, self.path), data
                    self._version = version
                return self._file
            except FileNotFoundError:
                if self._ending == ".json":
                    return _File()
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            text = f"{error.filename or self.path}: {error.strerror or error}."
            raise CatalogError("CATALOG_INVALID", text, path=self.path) from error


class _Body(msgspec.Struct, kw_only=True):
    """A manifest, or one product in a JSON store. The plural is welcome too: ``brokers``, ``topics``."""

    product: str | None = None
    brokers: list[dict[str, Any]] = msgspec.field(name="broker", default_factory=list)
    topics: list[dict[str, Any]] = msgspec.field(name="topic", default_factory=list)


class _Products(msgspec.Struct, kw_only=True):
    version: Literal[1] = 1
    products: dict[str, _Body] = msgspec.field(default_factory=dict)


class _File:
    """What a file says. Definitions are built, and thereby checked, for the product that asks."""

    def __init__(self, manifest: _Body | None = None, products: _Products | None = None) -> None:
        self.manifest = manifest
        self._products = products or _Products()
        self._built: dict[str, Contents] = {}

    @classmethod
    def parsed(cls, data: bytes, ending: str, path: str) -> _File:
        raw = _decoded(data, ending, path)
        kind: type[_Body] | type[_Products] = _Body
        if ending == ".json" and not (isinstance(raw, Mapping) and {"broker", "brokers", "topic", "topics"} & set(raw)):
            kind = _Products
        found = read(raw, kind, where=path, error=CatalogError, code="CATALOG_INVALID")
        return cls(manifest=found) if isinstance(found, _Body) else cls(products=found)

    def contents(self, product: str, path: str) -> Contents:
        if product not in self._built:
            body = self.manifest or self._products.products.get(product, _Body())
            if body.product not in (None, product):
                text = f"no product {product!r} in {path}: it declares {body.product!r}."
                raise CatalogError("PRODUCT_NOT_FOUND", text, product=product, path=path)
            self._built[product] = _contents(body, product, path)
        return self._built[product]

    def changed(self, product: str, contents: Contents, path: str) -> tuple[_File, bytes]:
        """Return the file with other contents for one product, and its bytes."""
        body = _Body(
            brokers=[_plain(broker, path) for broker in contents.brokers.values()],
            topics=[_plain(replace(topic, type=None), path) for topic in contents.topics.values()],
        )
        file = _File(products=replace(self._products, products={**self._products.products, product: body}))
        file._built[product] = contents
        return file, msgspec.json.format(msgspec.json.encode(file._products), indent=2) + b"\n"


def _decoded(data: bytes, ending: str, path: str) -> object:
    try:
        if ending == ".toml":
            return msgspec.toml.decode(data)
        if ending == ".json":
            return msgspec.json.decode(data) if data.strip() else {}
        return msgspec.yaml.decode(data) or {}
    except ImportError as error:
        raise CatalogError("CATALOG_INVALID", f"{path}: YAML needs PyYAML. pip install pyyaml", path=path) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mark = getattr(error.__context__, "problem_mark", None)  # PyYAML's; its text quotes the file, passwords and all
        line = f" (line {mark.line + 1})" if mark else ""
        at = re.search(r"\(byte (\d+)\)\Z", str(error))  # JSON's place; TOML tells the line
        told = f"{str(error)[:-1]}, line {data[: int(at[1])].count(10) + 1})" if at else str(error)
        text = f"{path}: {f'malformed YAML{line}' if ending in ('.yaml', '.yml') else told}."
    raise CatalogError("CATALOG_INVALID", text, path=path)


def _contents(body: _Body, product: str, path: str) -> Contents:
    within = f"{path}, "
    faults: list[DuctapeError] = []
    make = partial(make_broker, product=product, within=within)
    brokers = _by_tag("BROKER_EXISTS", path, body.brokers, make, faults)
    # A broker with another fault is there; one whose tag is at fault may be what a topic means.
    named = [raw.get("tag") for raw in body.brokers]
    sure = None not in named and all(fault.code != "TAG_INVALID" for fault in faults)
    topics = _by_tag("TOPIC_EXISTS", path, body.topics, partial(make_topic, product=product, within=within), faults)
    for topic in topics.values():
        if sure and topic.broker not in named:
            text = f"{within}topic {topic.tag!r}: there is no broker {topic.broker!r}."
            faults.append(CatalogError("BROKER_NOT_FOUND", text, broker=topic.broker, path=path))
    if len(faults) > 1:
        told = "".join(f"\n{n}. {fault.text.removeprefix(within)}" for n, fault in enumerate(faults, 1))
        raise CatalogError("CATALOG_INVALID", f"{path} has {len(faults)} faults:{told}", path=path)
    if faults:
        raise faults[0]
    return Contents(brokers, topics)


def _by_tag(
    code: str, path: str, raws: Iterable[dict[str, Any]], make: Callable[[Any], D], faults: list[DuctapeError]
) -> dict[str, D]:
    """Build definitions; those that cannot be add to `faults`, so that one look tells all."""
    found: dict[str, D] = {}
    for raw in raws:
        try:
            each = make(raw)
        except DuctapeError as fault:
            faults.append(fault)
            continue
        if each.tag in found:
            faults.append(CatalogError(code, f"{path} declares {each.tag!r} twice.", tag=each.tag, path=path))
        found[each.tag] = each
    return found


def _plain(definition: Broker | Topic, path: str) -> dict[str, Any]:
    """Return a definition as a manifest would write it."""

    def refuse(value: object) -> object:
        what = f"{definition.tag!r} holds a {type(value).__name__}"
        raise CatalogError("CATALOG_INVALID", f"{what}, which {path} cannot keep. Write '${{VARIABLE}}'.", path=path)

    plain: dict[str, Any] = msgspec.to_builtins(definition, enc_hook=refuse)
    renamed = {"envs": "env", "broker": "message_broker_tag"}
    return {renamed.get(name, name): value for name, value in plain.items() if name != "product"}


def write_whole(path: str, data: bytes) -> None:
    """Replace a file so that a reader, or a crash, finds the old one or the new one and nothing between.

    Call it under a lock: a draft that a crash left behind is written over.
    """
    # A new file is its owner's alone: nothing keeps a user from writing a password instead of a reference.
    mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o600
    draft = path + ".tmp"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with open(descriptor, "wb") as file:
            os.chmod(draft, mode)  # whatever the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
    if sys.platform != "win32":  # a folder cannot be opened there
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def locked(path: str, seconds: float) -> Iterator[None]:
    """Hold a lock between processes and between threads; the file stays behind, since deleting it would split the lock.

    Raises:
        CatalogError: ``CATALOG_INVALID`` if another process holds it for longer than `seconds`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + seconds
        while not _try_lock(descriptor):
            if time.monotonic() >= end:
                raise CatalogError("CATALOG_INVALID", f"{path}: held by another process for {seconds:g} s.", path=path)
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
