"""From a harness to pytest items: one test function, which the plugin runs once a scenario and loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from . import scenarios  # noqa: F401 - importing it fills the catalogue
from ._harness import Harness
from ._run import play
from ._scenario import SCENARIOS, Level, NotApplicable, Scenario

__all__ = ["SCENARIOS", "Case", "suite"]


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

    def test(ductape_case: Case, request: pytest.FixtureRequest) -> None:
        __tracebackhide__ = True
        made = harness(**fields)
        made.adapter = made.adapter or str(request.config.getoption("ductape_adapter") or "")
        made.fixture = {name: request.getfixturevalue(name) for name in harness.fixtures}
        scenario = ductape_case.scenario
        facts = {
            "scenario": scenario.id,
            "level": scenario.level,
            "promise": scenario.promise,
            "loop": ductape_case.loop,
        }
        try:
            play(scenario, made, ductape_case.loop)
        except NotApplicable as reason:
            kind = "not declared" if reason.declared else "cannot be played"
            pytest.skip(f"ductape: {kind}: {reason}")
        finally:  # the harness may have asked its server for its version
            request.node.user_properties.append(("ductape", {**facts, **made.versions(), **_texts(fields)}))

    test.ductape_suite = (harness, chosen)  # type: ignore[attr-defined]  # what the plugin looks for
    return pytest.mark.usefixtures(*harness.fixtures)(test) if harness.fixtures else test


def _texts(fields: dict[str, Any]) -> dict[str, Any]:
    return {"variant": {name: str(value) for name, value in fields.items() if name != "quirks"}}
