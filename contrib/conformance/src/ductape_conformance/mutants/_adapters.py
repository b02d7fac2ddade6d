"""Adapters with one defect each: those that no kit caught, those of the prototype, and those of real servers."""

from __future__ import annotations

from ductape.adapter import Durability, Fault, Order, Purpose, Verdict
from ductape_conformance.mutants import _defects as d
from ductape_conformance.mutants._mutant import Mutant
from ductape_conformance.mutants._ways import (
    SMALL,
    boundless,
    channels,
    claiming,
    deliveries,
    errors,
    records,
    replace,
    setting,
    verdicts,
)
from ductape_memory import LOSSY, QUEUE

__all__ = ["ADAPTERS"]

_KEYLESS = replace(QUEUE, order=Order.NONE)
_UNSURE = replace(QUEUE, confirmed_ack=False)
_WEAK = replace(QUEUE, durability=Durability.BUFFERED)
_ALL = replace(QUEUE, lease_shared=True)

ADAPTERS: tuple[Mutant, ...] = (
    # what no kit caught, or only some
    Mutant(
        "ack-does-nothing",
        ("settle.acked-never-returns", "stop.settlements-are-flushed"),
        verdicts(lambda one: one if one.verdict is not Verdict.ACK else None),
    ),
    Mutant(
        "retry-loses-the-message",
        ("settle.retry-keeps-its-delay", "retry.backs-off"),
        verdicts(lambda one: replace(one, verdict=Verdict.ACK) if one.verdict is Verdict.RETRY else one),
    ),
    Mutant(
        "release-does-nothing",
        ("settle.release-returns-at-once",),
        verdicts(lambda one: one if one.verdict is not Verdict.RELEASE else None),
    ),
    Mutant(
        "release-loses-the-message",
        ("settle.release-returns-at-once", "stop.finishes-what-runs-returns-the-rest"),
        verdicts(lambda one: replace(one, verdict=Verdict.ACK)),
    ),
    Mutant(
        "release-keeps-the-lease",
        ("settle.release-reaches-another-member",),
        verdicts(
            lambda one: replace(one, verdict=Verdict.RETRY, delay=30.0) if one.verdict is Verdict.RELEASE else one
        ),
    ),
    Mutant("everything-twice", ("roundtrip.body-headers-and-key", "delivery.publish-and-handle"), d.twice),
    Mutant(
        "a-call-is-stored-backwards", ("order.per-key", "order.in-total", "lanes.order-survives-failures"), d.reversed_
    ),
    Mutant("redeliveries-reorder-a-key", ("order.kept-across-a-crash", "lanes.order-survives-a-crash"), d.shuffled),
    Mutant("a-key-goes-to-any-member", ("order.a-key-has-one-owner",), claiming(order=Order.KEY), caps=_KEYLESS),
    Mutant(
        "headers-dropped",
        ("roundtrip.body-headers-and-key",),
        records(lambda one: replace(one, headers={"ductape-id": one.id})),
    ),
    Mutant(
        "headers-in-latin-1",
        ("roundtrip.every-kind-of-header",),
        records(lambda one: replace(one, headers={name: d.mangled(text) for name, text in one.headers.items()})),
    ),
    Mutant(
        "empty-headers-dropped",
        ("roundtrip.every-kind-of-header",),
        records(lambda one: replace(one, headers={name: text for name, text in one.headers.items() if text})),
    ),
    Mutant("keys-dropped", ("roundtrip.body-headers-and-key",), records(lambda one: replace(one, key=None))),
    Mutant(
        "bodies-as-text",
        ("roundtrip.every-byte-of-a-body",),
        records(lambda one: replace(one, body=one.body.decode(errors="replace").encode())),
    ),
    Mutant(
        "empty-body-becomes-null",
        ("roundtrip.every-byte-of-a-body",),
        records(lambda one: replace(one, body=one.body or b"null")),
    ),
    Mutant(
        "bodies-cut-at-64-KiB",
        ("roundtrip.every-byte-of-a-body",),
        records(lambda one: replace(one, body=one.body[:65536])),
    ),
    Mutant(
        "bodies-in-an-envelope-of-its-own",
        ("wire.body-is-plain",),
        records(lambda one: replace(one, body=b'{"data":' + one.body + b"}")),
    ),
    Mutant(
        "channels-crossed",
        ("roundtrip.channels-do-not-cross",),
        channels(lambda one: replace(one, name=one.name.rpartition(".")[0] if one.name.count(".") > 1 else one.name)),
    ),
    Mutant("removes-no-group", ("groups.a-removed-one-leaves-nothing-behind",), d.kept),
    Mutant("members-each-get-everything", ("groups.members-share", "delivery.members-share"), d.lone),
    Mutant(
        "groups-compete",
        ("groups.each-gets-all", "delivery.each-group-of-the-topic"),
        channels(lambda one: replace(one, group="all"), lambda one: replace(one, group="all")),
    ),
    Mutant("send-answers-early", ("send.returned-means-stored",), d.early),
    Mutant("close-drops-what-was-prefetched", ("close.hands-back-what-is-inside",), d.greedy),
    Mutant("close-waits-for-receive", ("close.while-receiving",), d.waits_for("close")),
    Mutant("stop-does-nothing", ("stop.ends-a-waiting-receive",), d.deaf),
    Mutant("second-close-crashes", ("close.twice-is-harmless",), d.once_only),
    Mutant(
        "never-reconnects",
        ("faults.a-new-connection-works", "outages.cuts-lose-nothing", "outages.a-half-open-link-loses-nothing"),
        d.no_way_back,
    ),
    Mutant("window-ignored", ("window.is-a-hard-bound",), boundless),
    Mutant(
        "retry-ignores-its-delay",
        ("settle.retry-keeps-its-delay", "retry.later-is-exact"),
        verdicts(lambda one: replace(one, delay=0.0)),
    ),
    Mutant("dies-of-an-unreadable-body", ("dead.unreadable-blocks-nothing",), d.fragile),
    Mutant(
        "missing-channel-is-transient",
        ("contract.a-missing-channel-is-a-config-fault",),
        errors(Fault.CONFIG, Fault.TRANSIENT, "declare"),
    ),
    Mutant("concurrent-sends-share-a-buffer", ("send.calls-may-overlap",), d.last_wins, imitate="log"),
    Mutant("retries-lose-headers", ("settle.retry-keeps-its-delay", "context.survives-retries"), d.resent_bare),
    Mutant("numbers-settle-other-messages", ("settle.old-deliveries-settle-nothing-new",), d.by_number),
    Mutant("a-closed-member-attracts-messages", ("groups.a-leaver-attracts-nothing",), d.nothing, imitate="log"),
    Mutant("no-counts", ("settle.counts-grow",), deliveries(setting("count", None))),
    Mutant(
        "counts-stay-1",
        ("settle.counts-grow", "retry.backs-off", "retry.one-budget-over-members"),
        deliveries(setting("count", 1)),
    ),
    # of the prototype
    Mutant("extend-does-nothing", ("lease.extended-stays-ours", "lease.a-long-handler-keeps-it"), d.pretends),
    Mutant(
        "send-ignores-the-delay",
        ("send.delay-is-kept", "delivery.delayed-publish"),
        records(lambda one: replace(one, delay=0.0)),
    ),
    Mutant(
        "retry-channel-shared-by-groups",
        ("derived.channels-are-private",),
        channels(lambda one: replace(one, group="all") if one.purpose is Purpose.RETRY else one),
    ),
    Mutant(
        "dead-and-retry-are-one-channel",
        ("derived.channels-are-private",),
        channels(lambda one: replace(one, purpose=Purpose.DEAD) if one.purpose is Purpose.RETRY else one),
    ),
    Mutant(
        "declared-groups-do-not-exist", ("groups.declared-is-enough", "delivery.each-group-of-the-topic"), d.undeclared
    ),
    # of real servers
    Mutant("hand-backs-count-as-attempts", ("settle.release-is-no-attempt",), d.counted_hand_backs),
    Mutant("extend-never-says-lost", ("lease.lost-is-told",), d.never_lost),
    Mutant("late-hand-backs-move-the-message", ("lease.late-verdicts-move-nothing",), d.moved_by_anybody),
    Mutant("epochs-outlive-their-receiver", ("close.ends-the-epochs",), deliveries(d.immortal)),
    Mutant("one-answer-for-many", ("settle.one-answer-each",), d.first_answer),
    Mutant("one-bad-record-refuses-all", ("send.too-large-is-refused-alone",), d.whole_batch, caps=SMALL),
    Mutant(
        "a-key-overtakes-its-failure",
        ("send.nothing-of-a-key-overtakes-a-failure",),
        channels(lambda one: replace(one, order=Order.NONE)),
        caps=SMALL,
    ),
    Mutant("receive-returns-too-many", ("receive.keeps-to-its-limit",), d.generous),
    Mutant("polls-as-long-as-the-broker-likes", ("receive.returns-within-its-wait",), d.patient),
    Mutant("looks-and-sleeps", ("receive.wakes-for-what-is-new",), d.slow),
    Mutant("given-up-polls-swallow-messages", ("receive.short-polls-lose-nothing",), d.forgetful),
    Mutant("settle-waits-for-receive", ("settle.beside-a-waiting-receive",), d.waits_for("settle")),
    Mutant(
        "stop-gives-everything-away",
        ("stop.settling-still-works", "order.stopping-gives-no-key-away", "lanes.stopping-keeps-the-order"),
        d.hasty,
    ),
    Mutant(
        "dead-letters-need-a-listener", ("derived.dead-letters-wait", "dead.exhausted"), purposes={Purpose.DEAD: LOSSY}
    ),
    Mutant("retry-channel-does-not-delay", ("derived.retry-delays",), records(lambda one: replace(one, delay=0.0))),
    Mutant("leases-are-not-told", ("roundtrip.facts-of-a-delivery",), deliveries(setting("leased_until", None))),
    Mutant("a-task-is-left-behind", ("close.leaves-nothing-running",), d.leaky),
    Mutant("every-position-is-the-same", ("send.one-answer-each",), d.one_place),
    Mutant("checks-take-messages", ("contract.check-disturbs-nothing",), d.rude),
    Mutant(
        "absent-server-is-a-config-fault",
        ("faults.an-absent-server-is-transient", "outages.a-broker-that-comes-back-is-found"),
        errors(Fault.TRANSIENT, Fault.CONFIG, "connect"),
    ),
    Mutant(
        "closed-is-transient",
        ("close.use-afterwards-is-lost",),
        errors(Fault.LOST, Fault.TRANSIENT, "send", "receive", "declare", "sender", "check"),
    ),
    Mutant("unwraps-anything", ("contract.native-objects-are-typed",), d.obliging),
)
