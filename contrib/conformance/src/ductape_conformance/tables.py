"""From reports to the tables of the docs.

    pytest --ductape-report report.json …
    python -m ductape_conformance.tables report.json docs/reports

keeps what a report says of each adapter in ``docs/reports/<adapter>.json``: versions, capabilities, and how each
scenario ended, without times, so that a report that says the same is the same. `summary`, `capabilities` and
`scenarios` make Markdown tables of these files; the docs are built from them, without any server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["capabilities", "read", "scenarios", "summary", "trimmed", "write"]

Report = Mapping[str, Any]

_SHARED = ("adapter", "adapter_version", "client", "server", "real", "kit", "core")
_WORST = ("fail", "pass", "skipped")
"""What counts where the loops differ: the first of these."""
_CELLS = {"pass": "✓", "fail": "✗", "not declared": "–", "cannot be played": "?"}


def trimmed(report: Report) -> dict[str, dict[str, Any]]:
    """Return what is kept of a run's report, by adapter.

    Suites that were given capabilities of their own are left out: they say nothing of the adapter as users have it.
    """
    found: dict[str, dict[str, Any]] = {}
    for suite in report["suites"]:
        variant = suite.get("variant") or {}
        if "caps" in variant:
            continue
        mine = found.setdefault(suite["adapter"], {name: suite.get(name) for name in _SHARED} | {"suites": {}})
        ended: dict[str, str] = {}
        for row in sorted(suite["scenarios"], key=lambda row: _WORST.index(row["outcome"]), reverse=True):
            ended[row["scenario"]] = row["reason"] if row["outcome"] == "skipped" else row["outcome"]
        name = suite["test"].rpartition("::")[2].removeprefix("test_")
        _add(mine["suites"], name, variant, suite.get("capabilities") or {}, ended)
    for mine in found.values():
        most = max(len(suite["scenarios"]) for suite in mine["suites"].values())
        mine["suites"] = {name: suite for name, suite in mine["suites"].items() if _telling(suite["scenarios"], most)}
    return found


def _add(
    suites: dict[str, Any], name: str, variant: Mapping[str, Any], declared: Mapping[str, Any], ended: dict[str, str]
) -> None:
    """Add a suite; what plays another part of the catalogue in the same way belongs to the one before."""
    for other in suites.values():
        alike = other["variant"] == variant and not other["scenarios"].keys() & ended.keys()
        if alike and min(len(ended), len(other["scenarios"])) > 1:  # random histories are a suite of their own
            other["scenarios"] = dict(sorted({**other["scenarios"], **ended}.items()))
            return
    suites[name] = {"variant": variant, "capabilities": declared, "scenarios": dict(sorted(ended.items()))}


def _telling(ended: Mapping[str, str], most: int) -> bool:
    """Small parts of a catalogue are other ways to play what is played whole elsewhere; one that failed is kept."""
    return len(ended) == 1 or 2 * len(ended) > most or "fail" in ended.values()


def write(report: Path, folder: Path) -> list[Path]:
    """Keep what a run's report says, a file for each adapter; returns the files."""
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for adapter, kept in trimmed(json.loads(report.read_text(encoding="utf-8"))).items():
        path = folder / f"{adapter}.json"
        path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        written.append(path)
    return written


def read(folder: Path) -> list[Report]:
    """Return the kept reports of all adapters, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |\n"


def _head(*cells: str) -> str:
    return _row(*cells) + "|" + "---|" * len(cells) + "\n"


def _columns(reports: Iterable[Report]) -> dict[str, Report]:
    """Return the suites that play the catalogue, titled by adapter and name."""
    return {
        report["adapter"] if name == report["adapter"] else f"{report['adapter']} {name}": suite
        for report in reports
        for name, suite in report["suites"].items()
        if len(suite["scenarios"]) > 1
    }


def _kind(ended: str) -> str:
    return ended if ended in _CELLS else ended.partition(":")[0]


def summary(reports: Sequence[Report]) -> str:
    """Return what was tested, on what, and how it went: one row a suite."""
    rows = ""
    for report in reports:
        for name, suite in report["suites"].items():
            kinds = [_kind(ended) for ended in suite["scenarios"].values()]
            server = report["server"] + ("" if report["real"] else " (not a real server)")
            versions = ", ".join(one for one in (report["adapter_version"], report["client"]) if one)
            numbers = [kinds.count(kind) for kind in _CELLS]
            rows += _row(f"`{report['adapter']}` {name}", versions, server, *numbers)
    return _head("suite", "versions", "server", "passed", "failed", "not declared", "cannot be played") + rows


def capabilities(reports: Sequence[Report]) -> str:
    """Return what each adapter declared for the channel that was tested."""
    columns = _columns(reports)
    names = list(dict.fromkeys(name for suite in columns.values() for name in suite["capabilities"]))
    rows = "".join(
        _row(f"`{name}`", *(suite["capabilities"].get(name, "") for suite in columns.values())) for name in names
    )
    return _head("capability", *columns) + rows


def scenarios(reports: Sequence[Report]) -> str:
    """Return how each scenario ended: ✓ passed, ✗ failed, – not declared, ? cannot be played by its harness."""
    columns = _columns(reports)
    ids = sorted({id for suite in columns.values() for id in suite["scenarios"]})
    rows = "".join(
        _row(f"`{id}`", *(_CELLS[_kind(suite["scenarios"].get(id, "cannot be played"))] for suite in columns.values()))
        for id in ids
    )
    return _head("scenario", *columns) + rows


def main(arguments: Sequence[str]) -> int:
    """Keep the reports of some runs; the last argument is the folder."""
    if len(arguments) < 2:
        sys.stderr.write("usage: python -m ductape_conformance.tables REPORT… FOLDER\n")
        return 2
    for report in arguments[:-1]:
        for path in write(Path(report), Path(arguments[-1])):
            sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
