"""The pytest plugin: it plays suites, writes the report, and says loudly what was not played."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

import pytest

__all__: list[str] = []

_RESULTS = pytest.StashKey[list[dict[str, Any]]]()
_PLAYED = pytest.StashKey[set[bool]]()
"""Whether suites are of the adapter that was asked for, or of others."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the kit."""
    group = parser.getgroup("ductape", "conformance of ductape adapters")
    group.addoption("--ductape-adapter", default=None, metavar="NAME", help="play suites of this adapter only")
    group.addoption("--ductape-report", default=None, metavar="FILE", help="write one JSON report of the run")
    group.addoption("--ductape-examples", default=1.0, type=float, metavar="TIMES", help="play more random histories")
    group.addoption("--ductape-seed", default=None, type=int, metavar="N", help="play other random histories")
    group.addoption("--ductape-loops", default="asyncio,uvloop", help="event loops (default: %(default)s)")


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty report."""
    config.stash[_RESULTS], config.stash[_PLAYED] = [], set()
    # Everything above the options is loaded only where a suite is collected: the plugin costs others nothing.
    config.pluginmanager.register(_Recorder(config), "ductape-conformance-recorder")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Turn a suite into one item for each scenario and loop."""
    found = getattr(metafunc.function, "ductape_suite", None)
    if found is None:
        return
    from ._run import loops
    from ._suite import Case

    harness, scenarios = found
    wanted = metafunc.config.getoption("ductape_adapter")
    other = bool(wanted and harness.adapter and harness.adapter.casefold() != str(wanted).casefold())
    metafunc.config.stash[_PLAYED].add(not other)
    if other:
        scenarios = []
    names = loops(str(metafunc.config.getoption("ductape_loops")))
    cases = [Case(one, name) for one in scenarios for name in names]
    metafunc.parametrize("ductape_case", cases, ids=repr)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse an adapter that has no suite here: a run that plays nothing must not look like one that passed."""
    wanted = session.config.getoption("ductape_adapter")
    worker = hasattr(session.config, "workerinput")  # it cannot tell: the process that reports does, in the end
    if wanted and not worker and not session.testsfailed and True not in session.config.stash[_PLAYED]:
        raise pytest.UsageError(f"--ductape-adapter {wanted}: no suite that was collected is of this adapter")


class _Recorder:
    """Collects results on the process that reports, which under xdist is not the one that plays."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.rows = config.stash[_RESULTS]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a scenario."""
        facts: Any = next((value for name, value in report.user_properties if name == "ductape"), None)
        if facts is None or not (report.when == "call" or report.failed):
            return
        reason = ""
        if report.skipped:
            reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            reason = reason.removeprefix("Skipped: ").removeprefix("ductape: ")
        elif report.failed:
            reason = str(getattr(report.longrepr, "reprcrash", None) or "").strip() or "failed"
        outcome = {"passed": "pass", "failed": "fail", "skipped": "skipped"}[report.outcome]
        row = {**facts, "test": report.nodeid.split("[")[0], "outcome": outcome, "reason": reason}
        self.rows.append({**row, "seconds": round(report.duration, 3)})

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the report; under xdist, refuse an adapter that has no suite."""
        path = self.config.getoption("ductape_report")
        if path and not hasattr(self.config, "workerinput"):
            with open(str(path), "w", encoding="utf-8") as file:
                json.dump(_report(self.rows), file, indent=1)
        wanted = self.config.getoption("ductape_adapter")
        if wanted and not self.rows and exitstatus == 0 and self.config.pluginmanager.hasplugin("dsession"):
            raise pytest.UsageError(f"--ductape-adapter {wanted}: no suite of this adapter was played")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the score of each suite, and what was not played, as loudly as what failed."""
        if not self.rows:
            return
        terminalreporter.section("ductape conformance", sep="=", bold=True)
        for test, rows in _by_test(self.rows).items():
            _print_suite(terminalreporter, test, rows)
        from ._run import loops

        wanted = str(self.config.getoption("ductape_loops"))
        for loop in sorted({*wanted.split(",")} - {*loops(wanted)}):
            terminalreporter.line(f"NOT PLAYED on {loop}, which is not installed: pip install {loop}", red=True)


def _print_suite(reporter: Any, test: str, rows: list[dict[str, Any]]) -> None:
    counts = {name: sum(row["outcome"] == name for row in rows) for name in ("pass", "fail", "skipped")}
    where = f"{rows[0]['adapter']}{' on ' + rows[0]['server'] if rows[0]['server'] else ''}"
    where += "" if rows[0]["real"] else " (not a real server)"
    text = f"{test}: {where}: {counts['pass']} passed, {counts['fail']} failed, {counts['skipped']} skipped"
    reporter.line(text, red=bool(counts["fail"]), green=not counts["fail"], bold=True)
    for outcome in ("fail", "skipped"):
        reasons: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            if row["outcome"] == outcome:
                reasons[row["reason"] if outcome == "skipped" else "failed"].add(row["scenario"])
        for reason, ids in sorted(reasons.items()):
            quiet = reason.startswith("not declared")
            line = f"  {outcome.upper()} {_told(reason)}: {', '.join(sorted(ids))}"
            reporter.line(line, red=not quiet, yellow=quiet)


def _told(reason: str) -> str:
    """Return why a scenario was not played, for people: some are played only where something is *not* declared."""
    return re.sub(r"^not declared: (\S+) is declared$", r"only for adapters without it: \1 is declared", reason)


def _by_test(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["test"]].append(row)
    return dict(sorted(found.items()))


def _report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    shared = ("adapter", "adapter_version", "client", "server", "real", "kit", "core", "variant", "capabilities")
    suites = []
    for test, mine in _by_test(rows).items():
        results = [{name: value for name, value in row.items() if name not in (*shared, "test")} for row in mine]
        # A row of a scenario that was not played knows less than others.
        facts = {name: next((row[name] for row in mine if row.get(name)), mine[0].get(name)) for name in shared}
        suites.append({"test": test, **facts, "scenarios": results})
    return {"format": 1, "suites": suites}
