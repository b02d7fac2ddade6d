"""From a harness to pytest items: one test function, which the plugin runs once a scenario and loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from . import scenarios  # noqa: F401 - importing it fills the catalogue
from ._harness import Harness
from ._random import HISTORIES, explore
from ._run import play
from ._scenario import SCENARIOS, Level, NotApplicable, Scenario

__all__ = ["SCENARIOS", "Case", "random_suite", "suite"]


class Case:
    """One scenario on one loop."""

    def __init__(self, scenario: Scenario, loop: str) -> None:
        """Pair them."""
        self.scenario, self.loop = scenario, loop

    def __repr__(self) -> str:
        return f"{self.scenario.id}-{self.loop}"


def suite(
    harness: type[Harness], *, level: Level | None = None, only: tuple[str, ...] = (), **fields: Any
) -> Callable[..., None]:
    """Return a test function that plays the catalogue against a harness; assign it to a name that begins with ``test``.

    Args:
        harness: The harness's class; each scenario makes an object of it.
        level: ``contract`` or ``promise``; None: both.
        only: Ids, or beginnings of ids, to leave the rest out.
        **fields: Attributes of the harness, to play it in several ways.
    """
    chosen = [
        one
        for one in SCENARIOS.values()
        if level in (None, one.level) and (not only or any(one.id.startswith(begin) for begin in only))
    ]
    return _test(harness, fields, chosen, lambda case, make, config: play(case.scenario, make(), case.loop))


def random_suite(
    harness: type[Harness], *, examples: int = 60, seconds: float = 25.0, seed: int | None = None, **fields: Any
) -> Callable[..., None]:
    """Return a test function that plays made-up histories of the contract, and prints the shortest that goes wrong.

    Sending, receiving, settling, burying, extending, closing, crashing, and whatever the harness's hooks can do, one
    after the other and two at a time, against a model of at-least-once delivery. Two quirks of a harness leave
    something out: where ``faults.stored-survives-a-kill`` cannot be seen the server is not killed, and with
    ``random.windows-differ`` all members of an ordered group have one window.

    Args:
        harness: The harness's class; each history makes an object of it.
        examples: How many histories; on a real server each takes seconds. ``--ductape-examples`` multiplies it.
        seconds: Real seconds after which no other is begun; ``--ductape-examples`` multiplies them as well.
        seed: Where to begin; None: the same histories in every run. ``--ductape-seed`` says another.
        **fields: Attributes of the harness.
    """

    def act(case: Case, make: Callable[[], Harness], config: pytest.Config) -> None:
        times, asked = config.getoption("ductape_examples"), config.getoption("ductape_seed")
        begin = seed if asked is None else asked
        explore(make, case.loop, examples=round(examples * times), seconds=seconds * times, seed=begin)

    return _test(harness, fields, [HISTORIES], act)


def _test(
    harness: type[Harness],
    fields: dict[str, Any],
    chosen: list[Scenario],
    act: Callable[[Case, Callable[[], Harness], pytest.Config], None],
) -> Callable[..., None]:
    """Return the function that pytest collects, and the plugin turns into an item for each scenario and loop."""

    def test(ductape_case: Case, request: pytest.FixtureRequest) -> None:
        __tracebackhide__ = True
        fixture = {name: request.getfixturevalue(name) for name in harness.fixtures}
        made: list[Harness] = []

        def make() -> Harness:
            one = harness(**fields)
            one.adapter = one.adapter or str(request.config.getoption("ductape_adapter") or "")
            one.fixture = fixture
            made[:] = [one]
            return one

        scenario = ductape_case.scenario
        facts = {
            "scenario": scenario.id,
            "level": scenario.level,
            "promise": scenario.promise,
            "loop": ductape_case.loop,
        }
        try:
            act(ductape_case, make, request.config)
        except NotApplicable as reason:
            kind = "not declared" if reason.declared else "cannot be played"
            pytest.skip(f"ductape: {kind}: {reason}")
        finally:  # the harness may have asked its server for its version
            for one in made:
                request.node.user_properties.append(("ductape", {**facts, **one.facts(), **_texts(fields)}))

    test.ductape_suite = (harness, chosen)  # type: ignore[attr-defined]  # what the plugin looks for
    return pytest.mark.usefixtures(*harness.fixtures)(test) if harness.fixtures else test


def _texts(fields: dict[str, Any]) -> dict[str, Any]:
    return {"variant": {name: str(value) for name, value in fields.items() if name != "quirks"}}
