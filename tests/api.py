"""What users of the last release may no longer find: ``python -m tests.api REF`` compares every distribution with REF.

Removed names, parameters that were removed, moved or became required, changed values of defaults and the like, of all
that is public: no underscore in its path, or named in an ``__all__``. Read from the sources; nothing is imported.
The status is 3 if there are any.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[1]
COLOR = re.compile(r"\x1b\[\d+m")
MEMBERS = ("core", "adapters/*", "contrib/*")


def breaks(root: Path, ref: str) -> Iterator[str]:
    """Gives a line for each thing that breaks somebody between `ref` and what lies in `root` now.

    Raises:
        subprocess.CalledProcessError: Git knows no such ref; its words are on standard error.
    """
    archive = ["git", "-C", str(root), "archive", "--format=tar", ref]
    packed = subprocess.run(archive, stdout=subprocess.PIPE, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder)
        with tarfile.open(fileobj=BytesIO(packed)) as tar:
            tar.extractall(before, filter="data")
        now = dict(modules(root))
        for module, sources in modules(before):
            if module not in now:
                yield f"{module}: the module was removed"
                continue
            old, new = (griffe.load(module, search_paths=[path]) for path in (sources, now[module]))
            for found in griffe.find_breaking_changes(old, new):
                line = COLOR.sub("", found.explain(griffe.ExplanationStyle.ONE_LINE))
                yield line.replace(f"{before}/", "")


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Gives the module of every distribution, and the folder that it lies in."""
    for pattern in MEMBERS:
        for typed in sorted(root.glob(f"{pattern}/src/*/py.typed")):
            yield typed.parent.name, typed.parents[1]


if __name__ == "__main__":
    (_, given) = sys.argv
    lines = list(breaks(ROOT, given))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.exit(3 if lines else 0)
