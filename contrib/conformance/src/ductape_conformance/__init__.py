"""The conformance kit of ductape: every promise a scenario, every scenario proven able to fail."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._clock import VirtualClock
    from ._harness import Harness
    from ._random import explore, replay
    from ._run import play
    from ._scenario import SCENARIOS, NotApplicable, Scenario
    from ._suite import random_suite, suite

__all__ = ["SCENARIOS", "Harness", "NotApplicable", "Scenario", "VirtualClock", "explore", "play", "random_suite"]
__all__ += ["replay", "suite"]

# pytest loads the plugin, and with it this module, in every run of everybody who has the kit installed: nothing of
# ductape is imported before a suite is written.
_HOMES = {
    "VirtualClock": "_clock",
    "Harness": "_harness",
    "play": "_run",
    "explore": "_random",
    "replay": "_random",
    "random_suite": "_suite",
    "SCENARIOS": "_suite",
    "NotApplicable": "_scenario",
    "Scenario": "_scenario",
    "suite": "_suite",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
