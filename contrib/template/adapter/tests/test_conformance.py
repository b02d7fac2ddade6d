"""The adapter keeps what it promises."""

from harness import CamelHarness

from ductape_conformance import suite

test_adapter = suite(CamelHarness)
