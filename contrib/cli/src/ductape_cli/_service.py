"""`ductape run`."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

from cyclopts import Parameter

from ductape._runner import run as run_on_loop
from ductape.errors import ConfigError

from ._figures import answered
from ._where import loaded

__all__ = ["run"]

log = logging.getLogger("ductape.cli")


def run(
    target: str,
    *,
    reload: Annotated[bool, Parameter(negative="")] = False,
    log_level: str = "info",
) -> int:
    """Serve an application until a signal: `ductape run shop.service:ductape`.

    On uvloop where it is installed. SIGINT and SIGTERM stop it in order; a second one ends it at once.

    Args:
        target: `module:name` of a `Ductape` object, or of a function that returns one.
        reload: Start again, in order, when a Python file or a manifest below the current folder changes.
        log_level: debug, info, warning or error.
    """
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise ConfigError("OPTION_INVALID", f"--log-level {log_level!r} is not debug, info, warning or error.")
    if reload:
        return _reloading(target, log_level)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    client = loaded(target)
    number = len(client._declarations)
    log.info("%s: product %s, env %s, %d subscriptions", target, client.product, client.env, number)

    async def serve() -> None:
        async with answered(client, target):
            await client.serve()

    run_on_loop(serve)
    return 0


def _reloading(target: str, log_level: str) -> int:
    try:
        import watchfiles
    except ImportError:
        text = 'run --reload needs watchfiles. pip install "ductape-cli[reload]"'
        raise ConfigError("OPTION_INVALID", text, option="reload") from None
    endings = (".py", ".toml", ".yaml", ".yml", ".json")
    command = f'"{sys.executable}" -m ductape_cli run "{target}" --log-level "{log_level}"'
    watchfiles.run_process(
        os.getcwd(),
        target=command,
        target_type="command",
        watch_filter=lambda _, path: path.endswith(endings),
        sigint_timeout=30,
    )
    return 0
