"""The pytest plugin. It imports nothing but pytest until a test uses its fixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ._bench import Bench


@pytest.fixture(name="ductape_bench")
def ductape_bench() -> Callable[..., Bench]:
    """Give `ductape_testing.bench`, under any plugin for async tests.

    ::

        async def test_it(ductape_bench):
            async with ductape_bench(app.ductape) as bench: ...
    """
    from ._bench import bench

    return bench
