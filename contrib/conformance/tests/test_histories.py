"""Made-up histories find what is broken, and the shortest history that shows it."""

import re

import pytest

from ductape.adapter import AdapterError, Capabilities, Count, Delivery, Epoch, Fault, Verdict
from ductape_conformance import explore, replay
from ductape_conformance._model import Model, Violation
from ductape_conformance._steps import Send, Settle, Take
from ductape_conformance.mutants import MUTANTS, Broken

# What is lost, or comes too often, shows in many ways: as owed at the end, as overtaken, by a count.
LOST = "never came again|overtakes|whose lease runs|says that this is delivery"
# What random histories find without being told where to look, and in what words.
FOUND = {
    "ack-does-nothing": "was acknowledged, and is delivered again",
    "retry-loses-the-message": LOST,
    "retry-ignores-its-delay": "s early",
    "release-loses-the-message": LOST,
    "everything-twice": "whose lease runs",
    "redeliveries-reorder-a-key": "overtakes",
    "a-call-is-stored-backwards": "overtakes",
    "claims-order": "of the same key|overtakes",
    "members-each-get-everything": LOST,
    "groups-compete": "never came again to audit",
    "declared-groups-do-not-exist": "never came again to audit",
    "a-closed-member-attracts-messages": LOST,
    "close-drops-what-was-prefetched": LOST,
    "window-ignored": "the window is",
    "receive-returns-too-many": "were asked for",
    "counts-stay-1": "says that this is delivery 1",
    "hand-backs-count-as-attempts": "says that this is delivery",
    "extend-does-nothing": f"{LOST}|of the same key",
    "late-hand-backs-move-the-message": LOST,
    "one-answer-for-many": "settle gave",
    "send-ignores-the-delay": "s early",
    "keys-dropped": "has the key None",
    "bodies-in-an-envelope-of-its-own": "another body",
    "retries-lose-headers": "was never sent",
    "second-close-crashes": "already closed",
    "never-reconnects": "the client is closed",
    "dead-letters-need-a-listener": "are no dead letters of",
    "claims-confirmed-acks": "was acknowledged, and is delivered again",
    "claims-to-store": LOST,
    "polls-as-long-as-the-broker-likes": "receive did not end within",
}


@pytest.mark.parametrize("name", FOUND)
def test_random_histories_find_a_mutant(name: str) -> None:
    with pytest.raises(Exception) as found:
        explore(lambda: Broken(MUTANTS[name]), examples=1500, seconds=45.0, shrink=False)
    assert re.search(FOUND[name], str(found.value))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["ack-does-nothing", "hand-backs-count-as-attempts"])
def test_a_failing_history_shrinks_to_a_few_steps(name: str) -> None:
    with pytest.raises(Violation) as found:
        explore(lambda: Broken(MUTANTS[name]), examples=2000, seconds=200.0)
    story = str(found.value).splitlines()[1:]
    assert len(story) <= 8, found.value
    history = "\n".join(found.value.__notes__)
    assert 3 <= sum(history.count(f"{step}(") for step in ("Send", "Take", "Settle")) <= 4, history
    assert not any(f"{step}(" in history for step in ("Both", "Cut", "Restart", "Crash", "Extend")), history


def test_a_history_that_was_found_can_be_played_again() -> None:
    history = [Send([0], False), Take(0, 1, False), Settle(0, Verdict.ACK, 0, 1, False)]
    replay(history, Broken())
    assert explore(Broken, examples=5) == 5
    assert explore(Broken, examples=5, seconds=0.0) == 0, "time is up"
    with pytest.raises(Violation, match="a ack m0"):
        replay(history, Broken(MUTANTS["ack-does-nothing"]))


def test_where_an_answer_was_lost_the_model_allows_both() -> None:
    model = Model(Capabilities(count=Count.NONE), ("g",), ordered=False)
    model.sending("m", "k", b"m", {})
    assert model.owed("g") == set(), "it may not be stored"
    model.stored("m", 0.0)
    assert model.owed("g") == {"m"}
    delivery = Delivery(b"m", {"ductape-id": "m"}, Epoch(), key="k")
    one = model.given("g", "a", delivery, 1.0, 10)
    (was,) = model.settling([one], Verdict.ACK)
    model.settled(one, Verdict.ACK, AdapterError(Fault.AMBIGUOUS, "cut"), 0.0, was)
    assert model.owed("g") == set(), "it may be acknowledged"
    model.given("g", "b", Delivery(b"m", {"ductape-id": "m"}, Epoch(), key="k"), 2.0, 10)


def test_an_acknowledgement_answered_lost_leaves_it_owed() -> None:
    model = Model(Capabilities(), ("g",), ordered=False)
    model.sending("m", "k", b"m", {})
    model.stored("m", 0.0)
    one = model.given("g", "a", Delivery(b"m", {"ductape-id": "m"}, Epoch(), key="k"), 1.0, 10)
    (was,) = model.settling([one], Verdict.ACK)
    model.settled(one, Verdict.ACK, AdapterError(Fault.LOST, "with somebody else"), 0.0, was)
    assert model.owed("g") == {"m"}
    with pytest.raises(Violation, match="another body"):
        model.given("g", "b", Delivery(b"x", {"ductape-id": "m"}, Epoch(), key="k"), 2.0, 10)
