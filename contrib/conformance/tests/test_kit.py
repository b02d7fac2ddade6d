"""The kit itself: what it collects, skips, reports and refuses."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ductape.adapter import Adapter, Capabilities, Count
from ductape_conformance import SCENARIOS, Harness, NotApplicable, VirtualClock, _clock, play
from ductape_conformance._clock import counting
from ductape_conformance._rules import contradictions
from ductape_conformance._scenario import Scenario
from ductape_conformance._stage import Stage
from ductape_memory import MemoryAdapter

MODULE = """
from ductape_conformance import Harness, VirtualClock, suite

class Memory(Harness):
    adapter = "memory"
    real = False

    async def config(self, namespace):
        return {"name": namespace}

    def clock(self):
        return VirtualClock()

test_memory = suite(Memory, only=("roundtrip.", "groups.without"), quirks={"roundtrip.facts-of-a-delivery": "not here"})
"""


class Whole(Harness):
    adapter = "memory"

    def clock(self) -> VirtualClock:
        return VirtualClock()


class Contradicting(Whole):
    def make(self) -> Adapter[Any]:
        adapter = MemoryAdapter()
        adapter._claims = lambda config: dict.fromkeys(  # type: ignore[method-assign]  # what it would not claim itself
            MemoryAdapter()._claims(config), Capabilities(retry_delay=5.0, count=Count.NONE)
        )
        return adapter


def pytest_alone(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with the kit's plugin, found by its entry point, and without those of everybody else."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "ductape_conformance", *options]
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def run(folder: Path, *options: str, module: str = MODULE) -> tuple[str, dict[str, Any]]:
    (folder / "test_it.py").write_text(module)
    report = folder / "report.json"
    return pytest_alone(folder, f"--ductape-report={report}", *options).stdout, json.loads(report.read_text())


def test_a_run_is_reported_and_skips_are_loud(tmp_path: Path) -> None:
    out, report = run(tmp_path, "--ductape-loops=asyncio")
    (suite,) = report["suites"]
    assert (suite["adapter"], suite["real"], suite["kit"] != "") == ("memory", False, True)
    outcomes = {one["scenario"]: (one["outcome"], one["reason"]) for one in suite["scenarios"]}
    assert outcomes["roundtrip.body-headers-and-key"] == ("pass", "")
    assert outcomes["roundtrip.facts-of-a-delivery"] == ("skipped", "cannot be played: not here")
    assert outcomes["groups.without-them-everybody-gets-all"][1].startswith("not declared")
    assert "SKIPPED cannot be played: not here: roundtrip.facts-of-a-delivery" in out
    assert "SKIPPED only for adapters without it: groups is declared: groups.without-them-everybody-gets-all" in out
    assert "NOT PLAYED" not in out


def test_a_loop_that_is_not_installed_is_said_to_be_left_out(tmp_path: Path) -> None:
    out, report = run(tmp_path, "--ductape-loops=asyncio,otherloop")
    assert "NOT PLAYED on otherloop, which is not installed" in out
    assert {one["loop"] for one in report["suites"][0]["scenarios"]} == {"asyncio"}


def test_an_adapter_is_chosen_by_name(tmp_path: Path) -> None:
    more = MODULE + "\n\nclass Other(Memory):\n    adapter = 'other'\n\n\ntest_other = suite(Other)\n"
    _, report = run(tmp_path, "--ductape-loops=asyncio", "--ductape-adapter=MEMORY", module=more)
    assert [suite["test"] for suite in report["suites"]] == ["test_it.py::test_memory"]


def test_an_adapter_that_no_suite_is_of_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(MODULE)
    done = pytest_alone(tmp_path, "--ductape-adapter=memroy")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--ductape-adapter memroy: no suite that was collected is of this adapter" in done.stderr


def test_ids_and_promises_are_well_formed() -> None:
    for id, one in SCENARIOS.items():
        group, _, name = id.partition(".")
        assert group, id
        assert name.replace("-", "").isalnum(), id
        assert one.promise.endswith("."), id
        assert one.level in ("contract", "promise")


def test_impossible_capabilities_are_refused_before_anything_is_played() -> None:
    assert contradictions(Capabilities()) == []
    with pytest.raises(AssertionError, match="impossible capabilities: a delay kept by the broker needs a count"):
        play(SCENARIOS["roundtrip.body-headers-and-key"], Contradicting())


def test_what_cannot_be_played_says_why() -> None:
    with pytest.raises(NotApplicable, match="the harness has no cut"):
        play(SCENARIOS["outages.cuts-lose-nothing"], Whole())
    with pytest.raises(TypeError, match="no 'imitates'"):
        Whole(imitates="log")


def test_virtual_time_notices_what_can_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_clock, "_STUCK", 0.2)

    async def stuck() -> None:
        await asyncio.get_running_loop().create_future()

    async def late(clock: VirtualClock) -> None:
        await clock.sleep(100.0)

    async def main() -> None:
        clock = VirtualClock()
        await clock.run(late(clock), 200.0)
        assert clock.now() == 1100.0
        with pytest.raises(TimeoutError, match="within 50 s"):
            await clock.run(late(clock), 50.0)
        with pytest.raises(TimeoutError, match="nothing is left"):
            await clock.run(stuck(), 50.0)

    with asyncio.Runner(loop_factory=counting(asyncio.new_event_loop)) as runner:
        runner.run(main())


def test_what_is_left_open_on_uvloop_is_a_failure_and_not_a_wait_without_an_end() -> None:
    pytest.importorskip("uvloop")

    async def leave(stage: Stage) -> None:
        stage.left = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)  # type: ignore[attr-defined]

    with pytest.raises(AssertionError, match="something was left open: unclosed resource <TCPServer"):
        play(Scenario("leaves.a-server", "contract", (), "It leaves a server.", leave), Whole(), "uvloop")


def test_the_plugin_loads_nothing_of_ductape() -> None:
    listed = "[one for one in sys.modules if one.partition('.')[0] == 'ductape']"
    code = f"import sys, ductape_conformance.plugin; print({listed})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
