"""The kit notices: every mutant is killed by the scenario that was made for it, and the whole adapter by none."""

import sys

import pytest

from ductape_conformance import SCENARIOS, NotApplicable, play
from ductape_conformance.mutants import MUTANTS, Broken, judge

SCORE: dict[str, tuple[str, ...]] = {}


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
