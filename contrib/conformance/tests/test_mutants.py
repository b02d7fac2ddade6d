"""The kit notices: every mutant is killed by the scenario that was made for it, and the whole adapter by none."""

import sys

import pytest

from ductape.adapter import Capabilities
from ductape_conformance import SCENARIOS, NotApplicable, play
from ductape_conformance.mutants import MUTANTS, Broken, judge

SCORE: dict[str, tuple[str, ...]] = {}
# Who finds out that a capability is claimed and not there.
CLAIMED = {
    "durability": "claims-to-store",
    "groups": "claims-many-groups",
    "order": "claims-order",
    "count": "claims-exact-counts",
    "history": "claims-history",
    "watermark": "claims-a-watermark",
    "confirmed_ack": "claims-confirmed-acks",
    "lease": "claims-shorter-leases",
    "lease_total": "claims-longer-leases",
    "lease_shared": "claims-one-lapse-alone",
    "order_locks": "claims-locks",
    "retry_joins": "claims-that-retries-join",
    "retry_delay": "claims-to-keep-delays",
    "retry_step": "claims-finer-steps",
    "send_delay": "claims-to-delay",
    "headers": "claims-headers",
    "max_headers": "claims-more-and-longer-headers",
    "max_header": "claims-more-and-longer-headers",
    "max_body": "claims-larger-messages",
    "max_message": "claims-larger-messages",
}
# What is asked for where it is not declared, and who sees that the kernel refuses it.
REFUSED = {
    "groups": ("refuse.groups", "refuse.second-group"),
    "order": ("refuse.order-by-key", "refuse.order-in-total"),
    "history": ("refuse.history",),
    "lease_total": ("refuse.timeout-above-the-lease",),
    "send_delay": ("refuse.send-delay",),
    "max_headers": ("refuse.headers-beyond-the-limits",),
    "max_header": ("refuse.headers-beyond-the-limits",),
    "max_body": ("refuse.too-large",),
    "max_message": ("refuse.too-large",),
}
# Nobody can ask for these: they say how the kernel has to go about something.
MANNERS = {
    *("durability", "count", "watermark", "confirmed_ack", "lease", "lease_shared", "order_locks", "retry_joins"),
    *("retry_delay", "retry_step", "headers"),
}


def test_every_scenario_is_proven_able_to_fail() -> None:
    assert set(SCENARIOS) - {id for one in MUTANTS.values() for id in one.killers} == set()


def test_every_capability_is_tested_where_it_is_claimed_and_refused_where_it_is_not() -> None:
    fields = set(Capabilities.__struct_fields__)
    assert CLAIMED.keys() == fields
    assert set(CLAIMED.values()) <= MUTANTS.keys()
    assert REFUSED.keys() | MANNERS == fields
    assert not REFUSED.keys() & MANNERS
    assert {id for ids in REFUSED.values() for id in ids} == {
        id for id in SCENARIOS if id.startswith("refuse.") and SCENARIOS[id].needs
    }


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str) -> None:
    verdict = judge(MUTANTS[name])
    SCORE[name] = verdict.killed
    assert verdict.survived == (), f"survived what should kill it; killed by {verdict.killed}: {verdict.how}"


@pytest.mark.parametrize("imitate", ["queue", "stream", "log", "lossy"])
def test_the_whole_adapter_passes_what_kills_mutants(imitate: str) -> None:
    failed = []
    for id in sorted({id for one in MUTANTS.values() if one.imitate == imitate for id in one.killers}):
        whole = Broken(next(one for one in MUTANTS.values() if one.imitate == imitate)._replace(spoil=None, caps=None))
        try:
            play(SCENARIOS[id], whole)
        except NotApplicable:
            continue
        except AssertionError as error:
            failed.append((id, str(error)))
    assert [one for one in failed if "history" not in one[1]] == []


def test_the_score_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    played = [name for name in MUTANTS if name in SCORE]
    killed = [name for name in played if SCORE[name]]
    with capfd.disabled():
        sys.stdout.write(f"\nmutants: {len(killed)} of {len(played)} killed {' '.join(set(played) - set(killed))}\n")
    assert killed == played
