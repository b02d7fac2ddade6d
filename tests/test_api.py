"""The check for breaks of the API finds them: on a small package in a repository of its own."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.api import ROOT, breaks, modules

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")

DOOR = 'from ._inside import Door, opened\n\n__all__ = ["Door", "opened"]\n'
INSIDE = '''
class Door:
    """A door."""

    def open(self, wide: bool = False) -> None: ...
    def close(self) -> None: ...
    def _latch(self) -> None: ...


def opened(door: Door) -> bool: ...
def secret() -> None: ...
'''


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    package = tmp_path / "core" / "src" / "doors"
    package.mkdir(parents=True)
    (package / "py.typed").touch()
    (package / "__init__.py").write_text(DOOR)
    (package / "_inside.py").write_text(INSIDE)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"], ["tag", "v1.0.0"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def change(repository: Path, *changes: tuple[str, str]) -> list[str]:
    file = repository / "core" / "src" / "doors" / "_inside.py"
    text = INSIDE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return list(breaks(repository, "v1.0.0"))


def test_what_is_as_it_was_breaks_nobody(repository: Path) -> None:
    assert change(repository) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    def close(self) -> None: ...\n", "", "close"),
        ("wide: bool = False", "", "wide"),
        ("wide: bool = False", "wide: bool", "wide"),
        ("wide: bool = False", "wide: bool = False, *, lock: bool", "lock"),
        ("def opened(door: Door)", "def opened(way: Door)", "door"),
    ],
)
def test_what_breaks_somebody_is_found_behind_a_private_module(
    repository: Path, old: str, new: str, words: str
) -> None:
    found = change(repository, (old, new))
    assert found
    assert words in " ".join(found)


def test_a_name_that_is_exported_no_more_is_found(repository: Path) -> None:
    (repository / "core" / "src" / "doors" / "__init__.py").write_text(
        DOOR.replace(", opened", "").replace(', "opened"', "")
    )
    [found] = change(repository)
    assert found == "core/src/doors/__init__.py:1: opened: Public object was removed"


def test_a_distribution_that_is_gone_is_found(repository: Path) -> None:
    shutil.rmtree(repository / "core")
    assert list(breaks(repository, "v1.0.0")) == ["doors: the module was removed"]


def test_additions_and_private_names_break_nobody(repository: Path) -> None:
    added = ("wide: bool = False", "wide: bool = False, *, lock: bool = False")
    private = ("    def _latch(self) -> None: ...\n", "")
    assert change(repository, added, private, ("def secret() -> None: ...\n", "")) == []


def test_every_distribution_is_compared() -> None:
    found = {name for name, _ in modules(ROOT)}
    assert {"ductape", "ductape_kafka", "ductape_cli", "ductape_testing"} <= found
