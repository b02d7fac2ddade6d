"""Lines of the changelog are written as files of `changelog.d`, so that two changes never meet in one place."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "changelog.d"
KINDS = ("added", "changed", "deprecated", "removed", "fixed", "security")
NAME = re.compile(rf"\+[a-z0-9]+(-[a-z0-9]+)*\.({'|'.join(KINDS)})\.md")
LONGEST = 500


def problems(name: str, text: str) -> list[str]:
    """Says what is wrong with a fragment."""
    found = [] if NAME.fullmatch(name) else [f"the name is not +WORDS.KIND.md, with a KIND of {', '.join(KINDS)}"]
    body = text.strip()
    if not body.endswith("."):
        found.append("it is no sentence: there is no full stop at its end")
    if body.startswith(("-", "*", "#")):
        found.append("the bullet is added when the changelog is made")
    if "\n\n" in body:
        found.append("it is one paragraph")
    if len(body) > LONGEST:
        found.append(f"it has more than {LONGEST} characters: the documentation has room")
    return found


def test_every_fragment_is_well_formed() -> None:
    fragments = [path for path in sorted(FOLDER.iterdir()) if path.name != "README.md"]
    found = {path.name: problems(path.name, path.read_text()) for path in fragments}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cli-top.added.md", "A new command."),
        ("+cli-top.new.md", "A new command."),
        ("+cli-top.added.txt", "A new command."),
        ("+Cli.added.md", "A new command."),
        ("+cli-top.added.md", "- A new command."),
        ("+cli-top.added.md", "A new command"),
        ("+cli-top.added.md", "A new command.\n\nAnd more."),
        ("+cli-top.added.md", f"{'word ' * 101}."),
        ("+cli-top.added.md", ""),
    ],
)
def test_what_is_not_well_formed_is_found(name: str, text: str) -> None:
    assert len(problems(name, text)) == 1
    assert problems("+cli-top.added.md", "A new command.\n") == []


def test_nothing_is_written_into_the_changelog_by_hand() -> None:
    _, unreleased = (ROOT / "CHANGELOG.md").read_text().split("<!-- releases -->\n")
    begins = unreleased.partition("## [")[0]
    assert begins.strip() == "", "it belongs into a file of changelog.d: see CONTRIBUTING"
    assert "Unreleased" not in unreleased
