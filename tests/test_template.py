"""`ductape new-adapter` begins a working adapter: as it is generated, it passes the contract level of the kit."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "contrib" / "template" / "adapter"
MODULES = ("__init__", "_config", "_wire", "_connection", "_sender", "_receiver")


def installed(folder: Path) -> None:
    """Writes beside the modules what an installation would: its name, version and entry points."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / "src" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    folder = tmp_path / "ductape-acme"
    command = [sys.executable, "-m", "ductape_cli", "new-adapter", "acme", "--into", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"cd {folder} && pip install" in done.stdout
    return folder


def test_nothing_is_left_of_the_template_s_words(generated: Path) -> None:
    files = [path for path in generated.rglob("*") if path.is_file()]
    assert {path.stem for path in files if path.parent.name == "ductape_acme"} == {*MODULES, "py"}
    assert [path for path in files if "NAME" in path.name + path.read_text() or "Camel" in path.read_text()] == []


def test_it_passes_the_kit_as_generated(generated: Path) -> None:
    installed(generated)
    report = generated / "report.json"
    options = ["-q", "-p", "no:cacheprovider", "--ductape-adapter", "acme", "--ductape-report", str(report)]
    env = {**os.environ, "PYTHONPATH": str(generated / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", *options, "tests"]
    done = subprocess.run(command, cwd=generated, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    (suite,) = json.loads(report.read_text())["suites"]
    assert (suite["adapter"], suite["adapter_version"]) == ("acme", "ductape-acme 0.1.0")
    played = [row for row in suite["scenarios"] if row["outcome"] != "skipped"]
    assert {row["outcome"] for row in played} == {"pass"}
    assert len({row["scenario"] for row in played if row["level"] == "contract"}) >= 40
    # Beside the hooks that need a server to fail, nothing is left out but what is not declared.
    loud = {row["reason"] for row in suite["scenarios"] if row["outcome"] == "skipped"}
    hooks = ("cut", "stall", "kill", "forget", "slow", "half_open", "wrong_credentials", "processes")
    assert {reason for reason in loud if not reason.startswith("not declared")} <= {
        f"cannot be played: the harness has no {hook}" for hook in hooks
    }
