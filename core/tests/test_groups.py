"""Who gets what: named and derived groups, foreign messages, one group a channel, poison; rules 11, 14, 18, 22, 23."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.tests.fake import Fake, OneChannel
from core.tests.kit import EVENT, NamedMemory, SharedMemory, opened
from ductape import Reject
from ductape.adapter import Capabilities, Count, Groups, Order, Purpose, Verdict
from ductape.errors import CapabilityError, StateError

ACK, RELEASE = Verdict.ACK, Verdict.RELEASE
TWO = {"new": {}, "old": {}}
OLD = "orders:old"


def depth(shop: Any, group: str) -> int:
    return int(shop.broker.depth("shared", group))


async def test_every_group_sees_every_message_and_members_share_it() -> None:
    async with opened() as shop:
        billing, audit = shop.log(), shop.log()
        await shop.subscribe(billing, group="billing")
        await shop.subscribe(audit, group="audit")
        await shop.run(shop.event.publish_many(EVENT, range(20)))
        await shop.settled("billing")
        await shop.settled("audit")
        assert sorted(billing.messages) == sorted(audit.messages) == list(range(20))


async def test_what_is_published_before_its_declared_groups_subscribe_is_theirs() -> None:
    async with opened(topics={"new": {"groups": ["billing", "audit"]}}) as shop:
        await shop.publish(1)
        for group in ("billing", "audit"):
            log = shop.log()
            await shop.subscribe(log, group=group)
            await shop.settled(group)
            assert log.messages == [1]


async def test_what_a_group_can_do_is_asked_for_the_group_that_is_joined() -> None:
    fake = Fake(Capabilities(order=Order.KEY, count=Count.EXACT))
    fake.groups["foreign"] = Capabilities(order=Order.NONE, count=Count.NONE)
    async with opened(fake, topics={"new": {"order": "key", "groups": ["billing", "foreign"]}}) as shop:
        with pytest.raises(CapabilityError, match=r"in group 'foreign': .* cannot keep order='key'"):
            await shop.subscribe(shop.log(), group="foreign")
        await shop.subscribe(shop.log(), group="billing")
        asked = [detail for name, detail in fake.journal if name == "capabilities"]
        events = [group for purpose, group in asked if purpose is Purpose.EVENTS]
        assert events == ["foreign", "billing", "billing"], "before a subscription is admitted, and by its receiver"


# ---- several topics on one channel


async def test_in_a_named_group_the_event_s_name_picks_the_handler_and_one_receiver_serves_all() -> None:
    async with opened(fake := OneChannel(), topics=TWO) as shop:
        new, old = shop.log(), shop.log()
        await shop.subscribe(new, group="all")
        await shop.subscribe(old, OLD, group="all")
        fake.feed(b"1")
        fake.feed(b"2", headers={"ductape-event": OLD})
        await shop.until(lambda: len(fake.settlements) == 2)
        assert (new.messages, old.messages) == ([1], [2])
        assert [each.channel.purpose for each in fake.receivers].count(Purpose.EVENTS) == 1


async def test_a_group_that_the_config_names_is_shared_too() -> None:
    async with opened(NamedMemory(), topics=TWO) as shop:
        new, old = shop.log(), shop.log()
        await shop.subscribe(new)
        await shop.subscribe(old, OLD)
        await shop.publish(1)
        await shop.publish(2, OLD)
        await shop.until(lambda: depth(shop, "workers") == 0)
        assert (new.messages, old.messages) == ([1], [2])


async def test_derived_groups_skip_the_events_of_other_topics_and_count_them() -> None:
    async with opened(SharedMemory(), topics=TWO) as shop:
        new, old = shop.log(), shop.log()
        first = await shop.subscribe(new)
        await shop.subscribe(old, OLD)
        await shop.publish(1)
        await shop.publish(2, OLD)
        await shop.until(lambda: depth(shop, "shop.new") + depth(shop, "shop.old") == 0)
        assert (new.messages, old.messages) == ([1], [2])
        assert first.stats()["skipped"] == 1
        assert await shop.dead() == []


async def test_what_nobody_of_a_named_group_handles_is_a_dead_letter_and_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened(SharedMemory(), topics=TWO) as shop:
        log = shop.log()
        await shop.subscribe(log, group="all")
        await shop.publish(2, OLD)
        await shop.publish(3, OLD)
        await shop.publish(1)
        await shop.until(lambda: depth(shop, "all") == 0)
        letters = await shop.dead("all")
        assert [(letter.event, letter.message, letter.reason) for letter in letters] == [
            (OLD, 2, "unmatched"),
            (OLD, 3, "unmatched"),
        ]
        assert log.messages == [1]
    assert caplog.text.count("which nothing here handles") == 1


async def test_what_nobody_handles_can_be_ignored() -> None:
    async with opened(SharedMemory(), topics=TWO) as shop:
        await shop.subscribe(shop.log(), group="all", on_unmatched="ignore")
        await shop.publish(2, OLD)
        await shop.until(lambda: depth(shop, "all") == 0)
        assert await shop.dead("all") == []


async def test_what_nobody_handles_can_stop_the_group() -> None:
    async with opened(SharedMemory(), topics=TWO) as shop:
        log = shop.log()
        await shop.subscribe(log, group="all", on_unmatched="stop")
        await shop.publish(2, OLD)
        await shop.advance(1)
        health = await shop.run(shop.client.health())
        assert (health.healthy, health.subscriptions[0].state) == (False, "stopped")
        assert "on_unmatched" in health.subscriptions[0].error
        assert depth(shop, "all") == 1


async def test_two_handlers_of_one_event_in_one_group_are_refused_and_the_first_goes_on() -> None:
    async with opened() as shop:
        log = shop.log()
        await shop.subscribe(log)
        with pytest.raises(StateError, match="another group") as caught:
            await shop.subscribe(shop.log())
        assert caught.value.code == "ALREADY_SUBSCRIBED"
        await shop.publish(1)
        await shop.settled()
        assert log.messages == [1]


# ---- foreign messages: promise 11


async def test_a_later_subscription_with_more_order_than_its_open_group_is_refused() -> None:
    can = Capabilities(order=Order.KEY, count=Count.EXACT)
    async with opened(fake := OneChannel(can), topics={"new": {}, "old": {"order": "key"}}) as shop:
        log = shop.log()
        await shop.subscribe(log, group="all")
        with pytest.raises(StateError, match="subscribe to the ordered event first") as caught:
            await shop.subscribe(shop.log(), OLD, group="all")
        assert caught.value.code == "ALREADY_OPEN"
        fake.feed(b"1")
        await shop.until(lambda: log.calls)


async def test_a_foreign_message_without_headers_goes_to_the_channel_s_only_topic() -> None:
    async with opened() as shop:
        log = shop.log()
        await shop.subscribe(log)
        shop.broker.put("orders.new", b'{"a":1}', key="k")
        await shop.settled()
        [event] = log.calls
        assert (event.message, event.name, event.key, event.session) == ({"a": 1}, EVENT, "k", None)
        assert event.id == event.position


async def test_a_foreign_message_that_fails_has_its_attempts_and_its_letter_too() -> None:
    async with opened() as shop:
        log = shop.log(lambda event: ValueError())
        await shop.subscribe(log)
        shop.broker.put("orders.new", b"1", {"theirs": "x"})
        await shop.settled()
        [letter] = await shop.dead()
        assert (letter.attempts, letter.body, letter.headers) == (5, b"1", {"theirs": "x"})


async def test_a_foreign_message_on_a_channel_of_several_topics_is_not_guessed() -> None:
    async with opened(SharedMemory(), topics=TWO) as shop:
        log = shop.log()
        await shop.subscribe(log)
        await shop.publish(1)
        shop.broker.put("shared", b"2")
        await shop.until(lambda: depth(shop, "shop.new") == 0)
        assert log.messages == [1]
        assert [letter.reason for letter in await shop.dead()] == ["unmatched"]


# ---- rule 11: one group a channel


async def test_a_second_group_on_a_channel_that_is_one_group_is_refused() -> None:
    can = Capabilities(groups=Groups.ONE, count=Count.EXACT)
    async with opened(can) as shop:
        log = shop.log()
        await shop.subscribe(log, group="billing")
        with pytest.raises(CapabilityError, match="billing") as caught:
            await shop.subscribe(shop.log(), group="audit")
        assert caught.value.code == "CAPABILITY_MISSING"
        await shop.publish(1)
        await shop.until(lambda: log.calls)


async def test_two_groups_that_are_opened_together_on_it_are_refused_too() -> None:
    async with opened(Fake(Capabilities(groups=Groups.ONE))) as shop:
        opening = [shop.event.subscribe(EVENT, callback=shop.log(), group=group) for group in ("billing", "audit")]
        answers = await shop.run(asyncio.gather(*opening, return_exceptions=True))
        assert sorted(type(answer).__name__ for answer in answers) == ["CapabilityError", "Subscription"]


async def test_on_a_channel_that_is_one_group_other_events_are_never_skipped() -> None:
    async with opened(fake := OneChannel(Capabilities(groups=Groups.ONE)), topics=TWO) as shop:
        await shop.subscribe(shop.log())
        fake.feed(b"2", headers={"ductape-event": OLD})
        await shop.until(lambda: fake.settlements)
        assert [record.headers["ductape-dead-reason"] for record in fake.stored] == ["unmatched"]


# ---- removal


async def test_a_removed_group_leaves_nothing_behind_and_the_others_keep_theirs() -> None:
    async with opened(topics={"new": {"groups": ["billing"]}}) as shop:
        subscription = await shop.subscribe(shop.log(lambda event: Reject()), group="tail")
        await shop.publish(1)
        await shop.settled("tail")
        await subscription.close()
        assert len(await shop.dead("tail")) == 1
        await shop.run(shop.event.remove_group(EVENT, group="tail"))
        await shop.run(shop.event.remove_group(EVENT, group="tail"))
        assert {group for _, _, group in shop.broker.state.stores} == {""}
        assert await shop.dead("tail") == []
        assert shop.left("billing") == 1


async def test_a_group_that_is_open_here_is_not_removed() -> None:
    async with opened() as shop:
        await shop.subscribe(shop.log(), group="billing")
        with pytest.raises(StateError, match="'billing' of 'orders:new' is open here"):
            await shop.run(shop.event.remove_group(EVENT, group="billing"))


async def test_an_adapter_that_cannot_remove_says_so() -> None:
    async with opened(Fake()) as shop:
        with pytest.raises(CapabilityError, match="cannot remove groups"):
            await shop.run(shop.event.remove_group(EVENT, group="billing"))
