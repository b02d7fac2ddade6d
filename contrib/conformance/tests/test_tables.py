"""What is kept of a report, and the tables that are made of it."""

import json
from pathlib import Path
from typing import Any

from ductape_conformance import tables


def row(scenario: str, outcome: str = "pass", reason: str = "", loop: str = "asyncio") -> dict[str, Any]:
    return {"scenario": scenario, "outcome": outcome, "reason": reason, "loop": loop, "seconds": 1.5}


def suite(test: str, *rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    facts = {"adapter": "acme", "adapter_version": "acme 1", "client": "", "server": "Acme 7", "real": True}
    facts |= {"kit": "0", "core": "0", "variant": {}, "capabilities": {"order": "key", "lease": "30"}}
    return {"test": f"tests/test_conformance.py::{test}", "scenarios": list(rows), **facts, **more}


REPORT = {
    "suites": [
        suite(
            "test_queue",
            row("a.one"),
            row("a.two", "skipped", "not declared: order is not declared"),
            row("b.one", "skipped", "cannot be played: the harness has no cut"),
            row("b.two", "fail", "line 7", "uvloop"),
            row("b.two"),
        ),
        suite("test_brief", row("a.one"), row("a.two")),
        suite("test_random", row("random.histories")),
        suite("test_small", *(row(f"{n}.one") for n in range(9)), variant={"caps": "…"}),
    ]
}


def test_a_report_is_kept_without_times_and_with_what_loops_have_in_common() -> None:
    kept = tables.trimmed(REPORT)["acme"]
    assert list(kept["suites"]) == ["queue", "random"], "parts, and capabilities that were made up, say nothing more"
    assert kept["suites"]["queue"]["scenarios"] == {
        "a.one": "pass",
        "a.two": "not declared: order is not declared",
        "b.one": "cannot be played: the harness has no cut",
        "b.two": "fail",
    }
    assert "seconds" not in json.dumps(kept)


def test_tables_are_made_of_what_was_kept(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    (path,) = tables.write(tmp_path / "report.json", tmp_path / "kept")
    assert path.name == "acme.json"
    reports = tables.read(tmp_path / "kept")
    assert "| `acme` queue | acme 1 | Acme 7 | 1 | 1 | 1 | 1 |" in tables.summary(reports)
    assert tables.capabilities(reports).splitlines()[2:] == ["| `order` | key |", "| `lease` | 30 |"]
    assert tables.scenarios(reports).splitlines() == [
        "| scenario | acme queue |",
        "|---|---|",
        "| `a.one` | ✓ |",
        "| `a.two` | – |",
        "| `b.one` | ? |",
        "| `b.two` | ✗ |",
    ]


def test_the_command_says_what_it_wants(capsys: Any) -> None:
    assert tables.main([]) == 2
    assert "usage" in capsys.readouterr().err
