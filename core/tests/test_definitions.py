"""Brokers and topics as users write them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ductape._definitions import (
    Broker,
    Topic,
    changed_broker,
    changed_topic,
    differing,
    make_broker,
    make_topic,
    provider_name,
)
from ductape.errors import CatalogError, ConfigError
from ductape.types import MessageBrokerTypes


def broker(**fields: Any) -> Broker:
    return make_broker({"tag": "order-events", **fields}, product="shop")


def topic(**fields: Any) -> Topic:
    return make_topic({"tag": "order-events:new-orders", **fields}, product="shop")


def env(slug: str = "dev", **fields: Any) -> dict[str, Any]:
    return {"slug": slug, "type": "REDIS", **fields}


class TestBroker:
    def test_it_holds_what_was_written(self) -> None:
        made = broker(name="Orders", description="d", envs=[env(config={"clientId": "${X}"}, create=False)])
        assert (made.product, made.tag, made.name, made.description) == ("shop", "order-events", "Orders", "d")
        only = made.env("dev")
        assert (only.slug, only.type, only.config, only.create) == ("dev", "REDIS", {"clientId": "${X}"}, False)

    @pytest.mark.parametrize("kind", [MessageBrokerTypes.AWS_SQS, "aws-sqs", "Aws_Sqs"])
    def test_a_provider_is_written_in_any_case(self, kind: str) -> None:
        made = broker(envs=[env(type=kind)]).env("dev").type
        assert made == "AWS_SQS" == provider_name(kind)
        assert type(made) is str

    def test_its_repr_shows_no_config_values(self) -> None:
        made = broker(envs=[env(config={"password": "hunter2"})])
        assert "hunter2" not in repr(made)
        assert "hunter2" not in repr(made.envs[0].__rich_repr__())
        assert repr(made.envs[0]) == "BrokerEnv(slug='dev', type='REDIS', config=<password>)"

    def test_it_does_not_share_the_users_objects(self) -> None:
        config = {"brokers": ["a"]}
        made = broker(envs=[env(config=config)])
        config["brokers"].append("b")
        assert made.env("dev").config == {"brokers": ["a"]}

    def test_a_missing_environment_names_those_that_there_are(self) -> None:
        with pytest.raises(CatalogError) as caught:
            broker(envs=[env("prd"), env("dev")]).env("prod")
        assert str(caught.value) == (
            "ENV_NOT_FOUND: broker 'order-events' has no env 'prod'. It has prd, dev. Did you mean 'prd'?"
        )
        with pytest.raises(CatalogError, match=r"It has none yet: add one with broker\.update"):
            broker().env("prd")

    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({"envs": [{"slug": 3, "type": "REDIS"}]}, "envs[0].slug: expected a string, got an integer."),
            ({"envs": [env(), {"slug": "x"}]}, "envs[1].type: required, but missing."),
            ({"envs": [env(), env()]}, "envs[1].slug: 'dev' is there twice."),
            ({"envs": [env(type="a b")]}, "envs[0].type: 'a b' names no provider. Write one like 'KAFKA' or 'REDIS'."),
            ({"envs": [env(confg={})]}, "envs[0]: unknown key 'confg'. Did you mean 'config'?"),
            ({"envs": {}}, "envs: expected a list, got a mapping."),
            ({"name": 3}, "name: expected a string, got an integer."),
        ],
    )
    def test_bad_input_names_the_path(self, fields: dict[str, Any], told: str) -> None:
        with pytest.raises(CatalogError) as caught:
            broker(**fields)
        assert str(caught.value) == f"CATALOG_INVALID: broker 'order-events', {told}"

    def test_an_unknown_field_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(CatalogError, match=r"unknown key 'descripton'\. Did you mean 'description'\?"):
            broker(descripton="x")

    def test_malformed_tags_are_refused(self) -> None:
        for raw in ({"tag": "a b"}, {"tag": "a:b"}, {"tag": "a", "envs": [env("x y")]}):
            with pytest.raises(CatalogError) as caught:
                make_broker(raw, product="shop")
            assert caught.value.code == "TAG_INVALID"
        with pytest.raises(CatalogError, match="CATALOG_INVALID: broker, tag: required, but missing"):
            make_broker({}, product="shop")


class TestTopic:
    def test_both_spellings_and_both_tags_are_the_same(self) -> None:
        full = topic(queue_url=[{"env_slug": "prd", "url": "u"}], message_broker_tag="order-events")
        short = make_topic(
            {"tag": "new-orders", "messageBrokerTag": "order-events", "queueUrl": {"prd": "u"}}, product="shop"
        )
        camel = topic(queueUrl=[{"envSlug": "prd", "url": "u"}])
        assert full == short == camel
        assert (full.tag, full.broker, full.short, full.queue_url) == (
            "order-events:new-orders", "order-events", "new-orders", {"prd": "u"},
        )  # fmt: skip

    def test_another_brokers_prefix_is_a_mismatch(self) -> None:
        with pytest.raises(CatalogError) as caught:
            topic(message_broker_tag="other")
        assert caught.value.code == "TAG_MISMATCH"

    @pytest.mark.parametrize("tag", ["new orders", ":x", "a:", "a:b:c", "new-orders"])
    def test_a_malformed_tag_or_one_without_a_broker_is_refused(self, tag: str) -> None:
        with pytest.raises(CatalogError) as caught:
            make_topic({"tag": tag}, product="shop")
        assert caught.value.code == "TAG_INVALID"

    def test_a_sample_is_kept_as_json_knows_it(self) -> None:
        class Order(msgspec.Struct):
            id: int

        assert topic(sample=(Order(1),)).sample == [{"id": 1}]
        with pytest.raises(CatalogError, match="sample: cannot be written as JSON"):
            topic(sample=object())

    def test_a_type_is_a_python_type(self) -> None:
        assert topic(type=dict[str, int]).type == dict[str, int]
        with pytest.raises(CatalogError, match="type: give the payload's Python type"):
            topic(type="Order")

    def test_groups_are_checked(self) -> None:
        assert topic(groups=["billing", "mail"]).groups == ("billing", "mail")
        with pytest.raises(ConfigError, match="OPTION_INVALID: group 'a b'"):
            topic(groups=["a b"])

    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({"order": "sorted"}, "order: 'sorted' is not one of key, none, total."),
            ({"queueUrl": [{"envSlug": "a"}]}, "queueUrl[0].url: required, but missing."),
            ({"queue_url": {"prd": 3}}, "queue_url.prd: expected a string, got an integer."),
            ({"queue_url": [{"env_slug": "a", "url": "x"}] * 2}, "queue_url[1].env_slug: 'a' is there twice."),
        ],
    )
    def test_bad_input_names_the_path(self, fields: dict[str, Any], told: str) -> None:
        with pytest.raises(CatalogError) as caught:
            topic(**fields)
        assert str(caught.value) == f"CATALOG_INVALID: topic 'order-events:new-orders', {told}"


class TestChanges:
    def test_given_fields_replace_and_others_stay(self) -> None:
        before = broker(name="a", description="b", envs=[env("dev", create=False), env("prd")])
        after = changed_broker(before, {"description": "c", "envs": [env("prd", type="KAFKA"), env("new")]})
        assert (after.name, after.description) == ("a", "c")
        assert [(e.slug, e.type, e.create) for e in after.envs] == [
            ("dev", "REDIS", False), ("prd", "KAFKA", True), ("new", "REDIS", True),
        ]  # fmt: skip

    def test_environments_are_removed_by_name(self) -> None:
        before = broker(envs=[env("dev"), env("prd")])
        assert [e.slug for e in changed_broker(before, {"removeEnvs": ["dev"]}).envs] == ["prd"]
        with pytest.raises(CatalogError, match="ENV_NOT_FOUND"):
            changed_broker(before, {"remove_envs": ["tst"]})

    def test_a_topics_urls_are_keyed_by_environment(self) -> None:
        before = topic(name="n", queue_url={"dev": "a", "prd": "b"}, type=dict)
        after = changed_topic(before, {"queueUrl": [{"envSlug": "prd", "url": "c"}], "remove_envs": ["dev"]})
        assert (after.name, after.queue_url, after.type) == ("n", {"prd": "c"}, dict)
        assert before.queue_url == {"dev": "a", "prd": "b"}
        with pytest.raises(CatalogError, match="ENV_NOT_FOUND"):
            changed_topic(before, {"remove_envs": ["tst"]})

    def test_tags_cannot_change(self) -> None:
        assert changed_topic(topic(), {"tag": "new-orders", "message_broker_tag": "order-events"}) == topic()
        for change in ({"tag": "other"}, {"messageBrokerTag": "other"}):
            with pytest.raises(CatalogError, match="TAG_MISMATCH"):
                changed_topic(topic(), change)
        with pytest.raises(CatalogError, match="TAG_MISMATCH"):
            changed_broker(broker(), {"tag": "other"})


class TestDiffering:
    def test_it_names_fields_and_environments(self) -> None:
        one = broker(name="a", envs=[env("dev", config={"x": 1}), env("prd"), env("old")])
        two = broker(name="b", envs=[env("dev", config={"x": 2}, create=False), env("prd"), env("new")])
        assert differing(one, two) == ["name", "envs.dev.config", "envs.dev.create", "envs.old", "envs.new"]

    def test_spelling_of_configs_and_order_of_environments_do_not_count(self) -> None:
        one = broker(envs=[env("dev", config={"clientId": 1, "a": (1,)}), env("prd")])
        assert differing(one, broker(envs=[env("prd"), env("dev", config={"client_id": 1, "a": [1]})])) == []

    def test_a_samples_spelling_counts(self) -> None:
        assert differing(topic(sample={"orderId": 1}), topic(sample={"order_id": 1}, order="key")) == [
            "sample",
            "order",
        ]
