"""The `ductape` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and end with its status.

    0 is success, 1 says that what was asked could not be done or is not so, 2 is wrong usage, 130 an interruption.
    """
    from ._app import run

    sys.exit(run(sys.argv[1:]))
