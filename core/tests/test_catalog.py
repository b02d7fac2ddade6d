"""The doors of the catalog: create, update, fetch, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ductape._catalog import BrokerDoor, Catalog
from ductape._store import FileStore, MemoryStore, Store
from ductape.errors import CatalogError

Door = BrokerDoor[None, None]


def door(store: Store | None = None) -> Door:
    return BrokerDoor(Catalog("my-product", store or MemoryStore()), publish=None, subscribe=None)


def store(kind: str, folder: Path) -> Store:
    return MemoryStore() if kind == "memory" else FileStore(folder / "catalog.json")


@pytest.fixture(params=["memory", "json"])
async def brokers(request: pytest.FixtureRequest, tmp_path: Path) -> Door:
    made = door(store(request.param, tmp_path))
    await made.create(tag="order-events", name="Orders", envs=[{"slug": "dev", "type": "REDIS"}])
    await made.topic.create(tag="order-events:new-orders", name="New")
    return made


async def refusal(call: Any) -> CatalogError:
    with pytest.raises(CatalogError) as caught:
        await call
    return caught.value


class TestBrokers:
    async def test_to_declare_the_same_again_does_nothing(self, brokers: Door) -> None:
        first = await brokers.fetch("order-events")
        again = await brokers.create(
            {"tag": "order-events", "name": "Orders", "envs": [{"slug": "dev", "type": "redis"}]}
        )
        assert again == first

    async def test_to_declare_another_of_its_tag_names_the_fields(self, brokers: Door) -> None:
        call = brokers.create(tag="order-events", name="x", envs=[{"slug": "dev", "type": "NATS"}])
        error = await refusal(call)
        assert str(error) == (
            "BROKER_EXISTS: broker 'order-events' is in product 'my-product' with another name, envs.dev.type. "
            "Use update to change it."
        )
        assert error.fields["differing"] == ["name", "envs.dev.type"]

    async def test_a_missing_one_is_told_the_nearest(self, brokers: Door) -> None:
        told = "BROKER_NOT_FOUND: no broker 'order-event' in product 'my-product'. Did you mean 'order-events'?"
        assert str(await refusal(brokers.fetch("order-event"))) == told
        assert str(await refusal(brokers.update("order-event", name="x"))) == told
        assert str(await refusal(brokers.delete("order-event"))) == told
        assert str(await refusal(brokers.topic.fetch_all("order-event"))) == told
        assert str(await refusal(brokers.topic.fetch("order-event:new-orders"))) == told
        assert str(await refusal(brokers.topic.create(tag="order-event:x"))) == told
        assert str(await refusal(brokers.fetch("xyz"))).endswith("'my-product'. There is order-events.")
        assert str(await refusal(door().fetch("a"))).endswith(
            "None is declared yet: broker.create declares one; was it awaited?"
        )

    async def test_an_update_replaces_what_is_given(self, brokers: Door) -> None:
        updated = await brokers.update("order-events", {"envs": [{"slug": "prd", "type": "KAFKA"}]}, description="d")
        assert (updated.name, updated.description, [env.slug for env in updated.envs]) == (
            "Orders",
            "d",
            ["dev", "prd"],
        )
        assert await brokers.fetch({"tag": "order-events"}) == updated
        assert [env.slug for env in (await brokers.update("order-events", remove_envs=["dev"])).envs] == ["prd"]

    async def test_a_failed_update_changes_nothing(self, brokers: Door) -> None:
        before = await brokers.fetch("order-events")
        wrong: Any = {"name": "x", "envs": [{"slug": "dev"}]}
        assert (await refusal(brokers.update("order-events", wrong))).code == "CATALOG_INVALID"
        assert (await refusal(brokers.update("order-events", remove_envs=["x"]))).code == "ENV_NOT_FOUND"
        assert await brokers.fetch("order-events") == before

    async def test_one_with_topics_is_deleted_only_on_request(self, brokers: Door) -> None:
        error = await refusal(brokers.delete("order-events"))
        assert str(error) == (
            "TOPIC_EXISTS: broker 'order-events' has topics: order-events:new-orders. "
            "Delete them first, or pass topics=True."
        )
        await brokers.delete("order-events", topics=True)
        assert await brokers.fetch_all() == []
        assert await brokers.topic.fetch_all() == []

    async def test_all_are_listed_in_both_spellings(self, brokers: Door) -> None:
        await brokers.create(tag="other")
        assert [each.tag for each in await brokers.fetch_all()] == ["order-events", "other"]
        assert await brokers.fetchAll() == await brokers.fetch_all()

    async def test_what_is_neither_keywords_nor_a_mapping_is_refused(self, brokers: Door) -> None:
        wrong: Any = "order-events"
        tags: list[Any] = [None, 3, ["a"], {}]
        assert str(await refusal(brokers.create(wrong))) == (
            "CATALOG_INVALID: broker.create: give keywords or one mapping, not str."
        )
        for tag in tags:
            assert (await refusal(brokers.fetch(tag))).code == "TAG_INVALID"


class TestTopics:
    async def test_to_declare_the_same_again_does_nothing(self, brokers: Door) -> None:
        again = await brokers.topic.create({"tag": "new-orders", "messageBrokerTag": "order-events", "name": "New"})
        assert again == await brokers.topic.fetch("order-events:new-orders")

    async def test_to_declare_another_of_its_tag_names_the_fields(self, brokers: Door) -> None:
        error = await refusal(brokers.topic.create(tag="order-events:new-orders", sample={"a": 1}))
        assert error.code == "TOPIC_EXISTS"
        assert error.fields["differing"] == ["name", "sample"]

    async def test_a_missing_one_is_told_the_nearest(self, brokers: Door) -> None:
        told = (
            "TOPIC_NOT_FOUND: no topic 'order-events:new-order' in product 'my-product'. "
            "Did you mean 'order-events:new-orders'?"
        )
        for call in (brokers.topic.fetch, brokers.topic.update, brokers.topic.delete):
            assert str(await refusal(call("order-events:new-order"))) == told
        for wrong in ("new-orders", "a:b:c", ":a", ""):
            assert (await refusal(brokers.topic.fetch(wrong))).code == "TAG_INVALID"

    async def test_an_update_replaces_what_is_given(self, brokers: Door) -> None:
        urls = await brokers.topic.update("order-events:new-orders", queue_url={"prd": "a", "dev": "b"})
        again = await brokers.topic.update("order-events:new-orders", {"queueUrl": [{"envSlug": "dev", "url": "c"}]})
        assert (again.name, again.queue_url) == ("New", {"prd": "a", "dev": "c"})
        assert urls.queue_url == {"prd": "a", "dev": "b"}

    async def test_they_are_listed_by_broker_and_deleted(self, brokers: Door) -> None:
        await brokers.create(tag="other")
        await brokers.topic.create(tag="other:t")
        assert [each.tag for each in await brokers.topic.fetch_all("other")] == ["other:t"]
        assert [each.tag for each in await brokers.topic.fetchAll()] == ["order-events:new-orders", "other:t"]
        await brokers.topic.delete("other:t")
        assert await brokers.topic.fetch_all("other") == []


class TestDeclaredTypes:
    async def test_a_type_stays_with_the_topic_in_this_process(self, brokers: Door) -> None:
        tag = "order-events:new-orders"
        assert (await brokers.topic.create(tag=tag, name="New", type=dict[str, int])).type == dict[str, int]
        assert (await brokers.topic.create(tag=tag, name="New")).type == dict[str, int]
        assert (await brokers.topic.fetch_all("order-events"))[0].type == dict[str, int]
        error = await refusal(brokers.topic.create(tag=tag, name="New", type=list))
        assert error.fields["differing"] == ["type"]
        assert (await brokers.topic.update(tag, description="d")).type == dict[str, int]
        assert (await brokers.topic.update(tag, type=list)).type is list
        await brokers.topic.delete(tag)
        assert (await brokers.topic.create(tag=tag)).type is None

    async def test_a_manifests_topic_can_be_given_one(self, tmp_path: Path) -> None:
        (tmp_path / "a.toml").write_text('[[broker]]\ntag = "a"\n[[topic]]\ntag = "a:b"\nname = "B"\n')
        topics = door(FileStore(tmp_path / "a.toml")).topic
        assert (await topics.update("a:b", type=dict)).type is dict
        assert (await topics.create(tag="a:b", name="B", type=dict)).type is dict
        assert (await refusal(topics.create(tag="a:b", name="C"))).code == "TOPIC_EXISTS"
        for call in (topics.create(tag="a:c"), topics.update("a:b", name="C"), topics.delete("a:b")):
            assert (await refusal(call)).code == "CATALOG_READ_ONLY"


class TestProducts:
    async def test_another_one_is_refused_everywhere(self, brokers: Door) -> None:
        other: Any = {"product": "my-prodct"}
        tag = "order-events:new-orders"
        for call in (
            brokers.create(tag="a", **other),
            brokers.update("order-events", other),
            brokers.fetch("order-events", **other),
            brokers.fetch({"tag": "order-events", "product": "my-prodct"}),
            brokers.fetch_all(**other),
            brokers.delete("order-events", **other),
            brokers.topic.create(tag="order-events:a", **other),
            brokers.topic.update(tag, other),
            brokers.topic.fetch(tag, **other),
            brokers.topic.fetch_all(**other),
            brokers.topic.delete(tag, **other),
        ):
            error = await refusal(call)
            assert str(error) == "PRODUCT_NOT_FOUND: no product 'my-prodct' here. Did you mean 'my-product'?"

    async def test_the_own_one_may_be_named(self, brokers: Door) -> None:
        await brokers.create(tag="a", product="my-product")
        assert (await brokers.fetch("a", product="my-product")).product == "my-product"
        with pytest.raises(CatalogError, match=r"no product 'x' here\. This client is for 'my-product'\."):
            brokers._catalog.check_product("x")

    def test_a_malformed_one_is_refused(self) -> None:
        with pytest.raises(CatalogError, match="TAG_INVALID: product 'a b'"):
            Catalog("a b", MemoryStore())


async def test_configs_are_shown_nowhere(brokers: Door) -> None:
    envs: Any = [{"slug": "dev", "type": "REDIS", "config": {"password": "hunter2"}}]
    for call in (brokers.create(tag="order-events", envs=envs), brokers.create(tag="x", envs=[*envs, *envs])):
        error = await refusal(call)
        assert "hunter2" not in str(error) + repr(error.fields)
    assert "hunter2" not in repr(await brokers.update("order-events", {"envs": envs}))
    assert repr(brokers) == "<brokers of 'my-product'>"
