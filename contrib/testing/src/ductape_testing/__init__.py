"""Tests for services that use ductape: every broker in memory, virtual time.

::

    async with bench(app.ductape) as b:
        b.fail(app.bill, ValueError, times=5)
        await app.ductape.event.publish("order-events:new-orders", {"orderId": "1"})
        await b.settled()
        [letter] = b.dead("order-events:new-orders", group="billing")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._bench import Bench, bench
    from ._clock import VirtualClock
    from ._failing import Failing
    from ._records import Call, Letter, Sent

__all__ = ["Bench", "Call", "Failing", "Letter", "Sent", "VirtualClock", "bench"]

_HOMES = {
    "Bench": "_bench",
    "Call": "_records",
    "Failing": "_failing",
    "Letter": "_records",
    "Sent": "_records",
    "VirtualClock": "_clock",
    "bench": "_bench",
}


def __getattr__(name: str) -> Any:
    # pytest imports this package for its plugin, in every run: what it stands on is loaded by the first test that asks.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("ductape-testing")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
