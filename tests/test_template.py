"""`ductape new-adapter` begins a working adapter: as it is generated, it passes the contract level of the kit."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "contrib" / "template" / "adapter"
MODULES = ("__init__", "_config", "_wire", "_connection", "_sender", "_receiver")


def installed(folder: Path) -> Path:
    """Builds the adapter's wheel with the backend that it names, and installs it into a folder beside."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=folder, capture_output=True, check=True)
    [wheel] = (folder / "dist").iterdir()
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:  # what an installation of a wheel without scripts comes to
        archive.extractall(site)
    return site


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


@pytest.mark.timeout(600)  # all of the kit, in one process
def test_it_passes_the_kit_as_generated(generated: Path) -> None:
    site = installed(generated)
    report = generated / "report.json"
    options = ["-q", "-p", "no:cacheprovider", "--ductape-adapter", "acme", "--ductape-report", str(report)]
    env = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
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
