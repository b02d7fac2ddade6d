"""`python -m tests.soak [part of a run's name]`: the long runs, one after the other, and their report."""

import asyncio
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.soak import redis

REPORT = Path(__file__).with_name("report.md")


def heading() -> str:
    """Say what was run, on what."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("ductape-core", "ductape-redis", "redis"))
    today = datetime.now(UTC).date()
    return (
        "# Soak report\n\n"
        f"`nox -s soak` on {today}, {platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"{packages}; the server is started and killed by the run itself, with `appendfsync always`.\n"
    )


def table(name: str, row: redis.Row, seconds: float) -> str:
    """Return one run's figures."""
    lines = [f"\n## Redis: {name}\n", "| what | number |", "|---|---|"]
    lines += [f"| {what} | {number} |" for what, number in row.items() if what != "seconds"]
    return "\n".join([*lines, f"\n{seconds:.0f} s.\n"])


def main(wanted: str) -> int:
    """Run what is wanted; the status is 1 if something was lost."""
    texts, bad = [heading()], False
    for name, run in redis.RUNS.items():
        if wanted not in name:
            continue
        print(f"{name} …", flush=True)
        began = time.monotonic()
        row = asyncio.run(run())
        texts.append(table(name, row, time.monotonic() - began))
        print(texts[-1], flush=True)
        lost = row.get("lost", 0) or ("raw" not in name and row.get("confirmed and lost", 0))
        twice = "10 × SIGTERM" in name and row["handled twice"]
        failed = "raw" not in name and (row.get("failed", 0) or row.get("receipts that are not true", 0))
        bad = bad or bool(lost or twice or failed or row.get("ended with an error", 0))
    if not wanted:
        REPORT.write_text("".join(texts))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
