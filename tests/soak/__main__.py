"""`python -m tests.soak [provider [part of a run's name]]`: the long runs, one after the other, and their reports."""

import asyncio
import importlib
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.soak import PROVIDERS, conformance
from tests.soak.ground import Ground, Row
from tests.soak.runs import bad, runs

REPORTS = Path(__file__).with_name("reports")


def heading(ground: Ground) -> str:
    """Say what was run, on what."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("ductape-core", *ground.packages))
    today = datetime.now(UTC).date()
    text = f"`nox -s soak -- {ground.name}` on {today}, {platform.system()} {platform.machine()}, Python "
    text += f"{platform.python_version()}, {packages}. The run starts and kills its own servers"
    return f"# Soak report: {ground.name}\n\n{text}{': ' if ground.settings else ''}{ground.settings}.\n"


def table(name: str, row: Row, seconds: float) -> str:
    """Return one run's figures."""
    lines = [f"\n## {name[0].upper()}{name[1:]}\n", "| what | number |", "|---|---|"]
    lines += [f"| {what} | {number} |" for what, number in row.items()]
    return "\n".join([*lines, f"\n{seconds:.0f} s.\n"])


def play(ground: Ground, part: str) -> list[str]:
    """Play a provider's runs; return what must not be; `LookupError` if none is called so."""
    texts, wrong = [heading(ground)], []
    for name, run in runs(ground).items():
        if part not in name:
            continue
        print(f"{ground.name}: {name} …", flush=True)
        began = time.monotonic()
        row = asyncio.run(run(ground))
        texts.append(table(name, row, time.monotonic() - began))
        print(texts[-1], flush=True)
        wrong += [f"{ground.name}: {name}: {what}" for what in bad(name, row)]
        if not part:
            REPORTS.mkdir(exist_ok=True)
            (REPORTS / f"{ground.name}.md").write_text("".join(texts))
    if len(texts) == 1:
        raise LookupError(f"{ground.name} has no run {part!r}; there are: {', '.join(runs(ground))}")
    return wrong


def main(provider: str = "", *part: str) -> int:
    """Run what is wanted; the status is 1 if something was lost, or 2 if there is no such provider or run."""
    if provider == "conformance":
        return conformance.main(*part)
    if provider and provider not in PROVIDERS:
        print(f"there is no {provider!r}; there are {', '.join((*PROVIDERS, 'conformance'))}", file=sys.stderr)
        return 2
    wrong = []
    for name in [provider] if provider else PROVIDERS:
        ground: Ground = importlib.import_module(f"tests.soak.{name}").GROUND
        try:
            wrong += play(ground, " ".join(part))
        except LookupError as error:
            print(error.args[0], file=sys.stderr)
            return 2
    if not provider and conformance.main():
        wrong.append("conformance: see its report")
    print("\n".join(["WRONG", *wrong] if wrong else ["nothing was lost"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
