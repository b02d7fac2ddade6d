"""The declared brokers and topics of one product, and the two doors through which they are declared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar, Unpack, overload

from msgspec.structs import replace

from ._definitions import Broker, Topic, changed_broker, changed_topic, differing, make_broker, make_topic
from ._names import check_tag, split_event
from ._store import Contents, Store
from .errors import CatalogError, nearest
from .types import BrokerChanges, BrokerRequest, TagRequest, TopicChanges, TopicRequest

P = TypeVar("P")
S = TypeVar("S")


class Catalog:
    """What one product has declared, read from its store at every question."""

    def __init__(self, product: str, store: Store, unreadable: Callable[[Any], str] = lambda kind: "") -> None:
        """Look at one product in a store; `unreadable` says why payloads cannot be read as a type, or nothing.

        Raises:
            CatalogError: ``TAG_INVALID`` for a product that is no tag.
        """
        self.product = check_tag(product, "product")
        self.store, self.unreadable = store, unreadable
        self.types: dict[str, Any] = {}  # declared payload types by topic: a file cannot hold them

    def __repr__(self) -> str:
        return f"<Catalog of {self.product!r} in {self.store!r}>"

    def check_product(self, product: object) -> None:
        """Refuse another product than the catalog's; None is the catalog's.

        Raises:
            CatalogError: ``PRODUCT_NOT_FOUND``.
        """
        if product is not None and product != self.product:
            hint = nearest(str(product), [self.product]) or f" This client is for {self.product!r}."
            raise CatalogError("PRODUCT_NOT_FOUND", f"no product {product!r} here.{hint}", product=product)

    async def broker(self, tag: str) -> Broker:
        """Return a broker.

        Raises:
            CatalogError: ``BROKER_NOT_FOUND``.
        """
        return self.broker_in(await self.store.read(self.product), tag)

    async def brokers(self) -> list[Broker]:
        """Return all brokers."""
        return list((await self.store.read(self.product)).brokers.values())

    async def topic(self, event: str) -> Topic:
        """Return a topic by its full tag, with its declared type.

        Raises:
            CatalogError: ``TAG_INVALID``, ``BROKER_NOT_FOUND`` or ``TOPIC_NOT_FOUND``.
        """
        return self.typed(self.topic_in(await self.store.read(self.product), event))

    async def topics(self, broker: str | None = None) -> list[Topic]:
        """Return the topics of a broker, or all.

        Raises:
            CatalogError: ``BROKER_NOT_FOUND``.
        """
        contents = await self.store.read(self.product)
        if broker is not None:
            self.broker_in(contents, broker)
        return [self.typed(topic) for topic in contents.topics.values() if broker in (None, topic.broker)]

    def broker_in(self, contents: Contents, tag: str) -> Broker:
        """Return a broker from what was read."""
        try:
            return contents.brokers[tag]
        except (KeyError, TypeError):
            text = f"no broker {tag!r} in product {self.product!r}.{_hint(tag, contents.brokers, 'broker')}"
            raise CatalogError("BROKER_NOT_FOUND", text, broker=tag, product=self.product) from None

    def topic_in(self, contents: Contents, event: str) -> Topic:
        """Return a topic from what was read, without its type."""
        self.broker_in(contents, split_event(event)[0])
        try:
            return contents.topics[event]
        except KeyError:
            text = f"no topic {event!r} in product {self.product!r}.{_hint(event, contents.topics, 'broker.topic')}"
            raise CatalogError("TOPIC_NOT_FOUND", text, topic=event, product=self.product) from None

    def typed(self, topic: Topic) -> Topic:
        """Return a stored topic with its declared type."""
        return replace(topic, type=self.types.get(topic.tag))

    def request(self, given: Mapping[str, Any] | None, fields: Mapping[str, Any], what: str) -> dict[str, Any]:
        """Return one mapping of what came as mapping and as keywords, without the product, which is checked."""
        if given is not None and not isinstance(given, Mapping):
            raise CatalogError("CATALOG_INVALID", f"{what}: give keywords or one mapping, not {type(given).__name__}.")
        request = {**(given or {}), **fields}
        self.check_product(request.pop("product", None))
        return request

    def tag(self, given: object, product: str | None) -> str:
        """Return the tag of a call that takes one, alone or in a mapping."""
        if isinstance(given, Mapping):
            self.check_product(given.get("product"))
            given = given.get("tag")
        self.check_product(product)
        if not isinstance(given, str):
            raise CatalogError("TAG_INVALID", f"tag {given!r}: give a tag as a string.", tag=given)
        return given


class TopicDoor:
    """``ductape.broker.topic``: declares topics."""

    def __init__(self, catalog: Catalog) -> None:
        """Open the door to a catalog."""
        self._catalog = catalog

    def __repr__(self) -> str:
        return f"<topics of {self._catalog.product!r}>"

    @overload
    async def create(self, request: TopicRequest, /) -> Topic: ...
    @overload
    async def create(self, **fields: Unpack[TopicRequest]) -> Topic: ...
    async def create(  # type: ignore[misc]  # mypy does not see that Any takes what Unpack names
        self, request: Any = None, /, **fields: Any
    ) -> Topic:
        """Declare a topic. To declare it again with the same fields does nothing.

        Raises:
            CatalogError: ``TOPIC_EXISTS`` naming the fields that differ, ``BROKER_NOT_FOUND``, ``TAG_INVALID``,
                ``TAG_MISMATCH``, ``CATALOG_INVALID``.
        """
        catalog = self._catalog
        made = make_topic(catalog.request(request, fields, "topic.create"), product=catalog.product)
        if made.type is not None and (why := catalog.unreadable(made.type)):
            raise CatalogError("CATALOG_INVALID", f"topic {made.tag!r}, type: {why}", topic=made.tag)

        def decide(contents: Contents) -> Topic:
            catalog.broker_in(contents, made.broker)
            if made.tag not in contents.topics:
                return made
            old = catalog.typed(contents.topics[made.tag])
            new = replace(made, type=old.type if made.type is None else made.type)
            if old.type is None:  # not kept by a file: whoever knows it may add it
                old = replace(old, type=new.type)
            if names := differing(old, new):
                raise _exists("TOPIC_EXISTS", "topic", made.tag, catalog.product, names)
            return old

        return await self._put(decide)

    async def update(self, tag: str, changes: TopicChanges | None = None, /, **fields: Unpack[TopicChanges]) -> Topic:
        """Replace the given fields of a topic, and keep the others; `queue_url` is keyed by environment.

        Raises:
            CatalogError: ``TOPIC_NOT_FOUND``, ``TAG_MISMATCH`` for another tag, ``ENV_NOT_FOUND``, ``CATALOG_INVALID``.
        """
        catalog = self._catalog
        request = catalog.request(changes, fields, "topic.update")

        def decide(contents: Contents) -> Topic:
            return changed_topic(catalog.typed(catalog.topic_in(contents, tag)), request)

        return await self._put(decide)

    async def fetch(self, tag: str | TagRequest, *, product: str | None = None) -> Topic:
        """Return a topic by its full tag.

        Raises:
            CatalogError: ``TOPIC_NOT_FOUND``, ``BROKER_NOT_FOUND``, ``TAG_INVALID``.
        """
        return await self._catalog.topic(self._catalog.tag(tag, product))

    async def fetch_all(self, broker: str | None = None, *, product: str | None = None) -> list[Topic]:
        """Return the topics of a broker, or of the product.

        Raises:
            CatalogError: ``BROKER_NOT_FOUND``.
        """
        self._catalog.check_product(product)
        return await self._catalog.topics(broker)

    fetchAll = fetch_all

    async def delete(self, tag: str | TagRequest, *, product: str | None = None) -> None:
        """Forget a topic. Its channel and the messages in it stay where they are.

        Raises:
            CatalogError: ``TOPIC_NOT_FOUND``, ``BROKER_NOT_FOUND``, ``TAG_INVALID``.
        """
        name = self._catalog.tag(tag, product)

        def edit(contents: Contents) -> Contents:
            self._catalog.topic_in(contents, name)
            return replace(contents, topics=_without(contents.topics, [name]))

        await self._catalog.store.change(self._catalog.product, edit)
        self._catalog.types.pop(name, None)

    async def _put(self, decide: Callable[[Contents], Topic]) -> Topic:
        """Store what `decide` returns, its type aside: that stays in this process."""
        catalog = self._catalog
        decided: list[Topic] = []

        def edit(contents: Contents) -> Contents:
            decided[:] = [decide(contents)]
            topic = replace(decided[0], type=None)
            if contents.topics.get(topic.tag) == topic:
                return contents
            return replace(contents, topics={**contents.topics, topic.tag: topic})

        await catalog.store.change(catalog.product, edit)
        catalog.types[decided[0].tag] = decided[0].type
        return decided[0]


class BrokerDoor(Generic[P, S]):
    """``ductape.broker``: declares brokers.

    Attributes:
        topic: Declares topics.
        publish: The same as ``ductape.event.publish``.
        subscribe: The same as ``ductape.event.subscribe``.
    """

    def __init__(self, catalog: Catalog, *, publish: P, subscribe: S) -> None:
        """Open the door to a catalog."""
        self._catalog = catalog
        self.topic = TopicDoor(catalog)
        self.publish = publish
        self.subscribe = subscribe

    def __repr__(self) -> str:
        return f"<brokers of {self._catalog.product!r}>"

    @overload
    async def create(self, request: BrokerRequest, /) -> Broker: ...
    @overload
    async def create(self, **fields: Unpack[BrokerRequest]) -> Broker: ...
    async def create(  # type: ignore[misc]  # mypy does not see that Any takes what Unpack names
        self, request: Any = None, /, **fields: Any
    ) -> Broker:
        """Declare a broker. To declare it again with the same fields does nothing.

        Raises:
            CatalogError: ``BROKER_EXISTS`` naming the fields that differ, ``TAG_INVALID``, ``CATALOG_INVALID``.
        """
        catalog = self._catalog
        new = make_broker(catalog.request(request, fields, "broker.create"), product=catalog.product)

        def edit(contents: Contents) -> Contents:
            old = contents.brokers.get(new.tag)
            if old is None:
                return replace(contents, brokers={**contents.brokers, new.tag: new})
            if names := differing(old, new):
                raise _exists("BROKER_EXISTS", "broker", new.tag, catalog.product, names)
            return contents

        return (await catalog.store.change(catalog.product, edit)).brokers[new.tag]

    async def update(
        self, tag: str, changes: BrokerChanges | None = None, /, **fields: Unpack[BrokerChanges]
    ) -> Broker:
        """Replace the given fields of a broker, and keep the others; `envs` is keyed by slug, see `remove_envs`.

        Raises:
            CatalogError: ``BROKER_NOT_FOUND``, ``ENV_NOT_FOUND``, ``CATALOG_INVALID``, ``TAG_MISMATCH`` for a new tag.
        """
        catalog = self._catalog
        request = catalog.request(changes, fields, "broker.update")

        def edit(contents: Contents) -> Contents:
            old = catalog.broker_in(contents, tag)
            new = changed_broker(old, request)
            return contents if new == old else replace(contents, brokers={**contents.brokers, tag: new})

        return (await catalog.store.change(catalog.product, edit)).brokers[tag]

    async def fetch(self, tag: str | TagRequest, *, product: str | None = None) -> Broker:
        """Return a broker.

        Raises:
            CatalogError: ``BROKER_NOT_FOUND``.
        """
        return await self._catalog.broker(self._catalog.tag(tag, product))

    async def fetch_all(self, *, product: str | None = None) -> list[Broker]:
        """Return all brokers of the product."""
        self._catalog.check_product(product)
        return await self._catalog.brokers()

    fetchAll = fetch_all

    async def delete(self, tag: str | TagRequest, *, topics: bool = False, product: str | None = None) -> None:
        """Forget a broker, and with `topics` also its topics. What the provider holds stays where it is.

        Raises:
            CatalogError: ``BROKER_NOT_FOUND``; ``TOPIC_EXISTS`` if it has topics and `topics` is not set.
        """
        catalog = self._catalog
        name = catalog.tag(tag, product)

        def edit(contents: Contents) -> Contents:
            catalog.broker_in(contents, name)
            owned = [topic.tag for topic in contents.topics.values() if topic.broker == name]
            if owned and not topics:
                text = f"broker {name!r} has topics: {', '.join(owned)}. Delete them first, or pass topics=True."
                raise CatalogError("TOPIC_EXISTS", text, broker=name, topics=owned)
            return Contents(_without(contents.brokers, [name]), _without(contents.topics, owned))

        after = await catalog.store.change(catalog.product, edit)
        catalog.types = {topic: kind for topic, kind in catalog.types.items() if topic in after.topics}


V = TypeVar("V")


def _without(tags: Mapping[str, V], gone: Iterable[str]) -> dict[str, V]:
    return {tag: value for tag, value in tags.items() if tag not in set(gone)}


def _exists(code: str, what: str, tag: str, product: str, names: list[str]) -> CatalogError:
    text = f"{what} {tag!r} is in product {product!r} with another {', '.join(names)}. Use update to change it."
    return CatalogError(code, text, tag=tag, differing=names)


def _hint(tag: str, known: Mapping[str, object], door: str) -> str:
    if hint := nearest(str(tag), known):
        return hint
    listed = ", ".join(sorted(known)[:8]) + (", …" if len(known) > 8 else "")
    return f" There is {listed}." if known else f" None is declared yet: {door}.create declares one; was it awaited?"
