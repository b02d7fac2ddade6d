"""Facts about the distributions that nobody should have to remember."""

import importlib
import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MEMBERS = [ROOT / "core", *sorted(ROOT.glob("adapters/*")), *sorted(ROOT.glob("contrib/*"))]
MEMBERS = [folder for folder in MEMBERS if (folder / "pyproject.toml").is_file()]
VERSION = (ROOT / "VERSION").read_text().strip()

# The kit has a version of its own: an adapter names the one that it passed.
OWN_VERSION = {"ductape-conformance"}

each_member = pytest.mark.parametrize("folder", MEMBERS, ids=lambda folder: folder.name)


@cache
def project(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())
    return document


def module_of(folder: Path) -> str:
    (package,) = project(folder)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return str(package).removeprefix("src/")


@cache
def tracked() -> list[Path]:
    """Every file that is committed or would be with `git add .`."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    list_files = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(list_files, cwd=ROOT, capture_output=True, check=True)
    return [path for name in done.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_the_version_stands_in_one_file() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", VERSION)
    for folder in MEMBERS:
        assert project(folder)["project"]["dynamic"] == ["version"]
        file = folder if project(folder)["project"]["name"] in OWN_VERSION else ROOT
        assert (folder / project(folder)["tool"]["hatch"]["version"]["path"]).resolve() == file / "VERSION"


@each_member
def test_siblings_are_pinned_to_this_minor_version(folder: Path) -> None:
    major, minor = VERSION.split(".")[:2]
    pin = f">={major}.{minor},<{major}.{int(minor) + 1}"
    names = {project(member)["project"]["name"] for member in MEMBERS}
    table = project(folder)["project"]
    needed = [
        *table["dependencies"],
        *(one for extra in table.get("optional-dependencies", {}).values() for one in extra),
    ]
    siblings = [needed_one for needed_one in needed if needed_one.startswith("ductape-")]
    assert len(siblings) > 0 or folder.name == "core"
    for sibling in siblings:
        match = re.match(r"([a-z-]+)(\[[a-z,]+\])?(.*)$", sibling)
        assert match is not None
        assert match[1] in names
        assert match[3].partition(";")[0].strip() == pin


@each_member
def test_every_distribution_is_complete(folder: Path) -> None:
    table = project(folder)["project"]
    module = module_of(folder)
    assert table["requires-python"] == ">=3.11"
    assert table["name"] in (module.replace("_", "-"), "ductape-core")
    assert (folder / "README.md").read_text().startswith(f"# {table['name']}\n")
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (folder / "src" / module / "py.typed").is_file()
    assert table["name"] in (ROOT / "pyproject.toml").read_text(), "missing in [tool.uv.sources]"


@each_member
def test_adapters_are_found_by_the_kernel(folder: Path) -> None:
    points = project(folder)["project"].get("entry-points", {})
    if folder.parent.name == "adapters":
        assert set(points) >= {"ductape.adapters"}
        assert list(points["ductape.adapters"]) in ([folder.name], [f"aws_{folder.name}"])
    assert set(points) <= {"ductape.adapters", "ductape.middleware", "pytest11", "console_scripts"}


def test_core_needs_two_packages_only() -> None:
    names = [re.split(r"[<>=]", needed)[0] for needed in project(ROOT / "core")["project"]["dependencies"]]
    assert names == ["msgspec", "stevedore"]


def test_no_file_names_a_registry_or_a_machine() -> None:
    # Written in pieces, so that this file does not name them either.
    hosts = ["py" + r"pi\.org", "pythonho" + r"sted\.org", r"repo1?\." + r"maven", "npm" + r"js\.", "crates" + r"\.io"]
    paths = [r"(?<![\w/.])/(wo" + r"rk|ro" + r"ot|ho" + r"me)/\w"]
    wrong = re.compile("|".join(hosts + paths))
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        lines = enumerate(text.splitlines(), 1)
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}" for number, line in lines if wrong.search(line)
        ]
    assert found == []


def test_nothing_that_is_made_is_committed() -> None:
    suffixes = {".pyc", ".whl", ".so", ".log", ".sqlite"}
    made = [path for path in tracked() if path.name.endswith((".lock", ".tar.gz")) or path.suffix in suffixes]
    assert made == []


@pytest.mark.skipif("DUCTAPE_TEST_INSTALLED" not in os.environ, reason="only where the session installed wheels")
@each_member
def test_what_is_tested_is_what_was_installed(folder: Path) -> None:
    if not any((folder / "src").rglob("*.py")):
        pytest.skip("has no modules yet")
    module = importlib.import_module(module_of(folder))
    assert Path(str(module.__file__)).is_relative_to(sysconfig.get_path("purelib"))
