"""The commands, and what becomes of their errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, MissingArgumentError

from ductape.errors import DuctapeError

from . import _adapters, _catalog, _dead, _doctor, _messages, _schema, _service, _top
from ._out import Out

__all__ = ["app", "run"]

app = App(
    name="ductape",
    help="Publish and consume events over several brokers, and look after them.",
    version=lambda: f"ductape {version('ductape-core')}, ductape-cli {version('ductape-cli')}",
    help_format="markdown",
)
app.register_install_completion_command()
app.command(_service.run)
app.command(_messages.publish)
app.command(_messages.tail)
app.command(_catalog.brokers)
app.command(_catalog.topics)
app.command(_dead.dead)
app.command(_top.top)
app.command(_doctor.doctor)
app.command(_adapters.providers)
app.command(_catalog.check)
app.command(_schema.schema)
app.command(_adapters.new_adapter)


AWAY = ("CONNECT_FAILED", "PUBLISH_TIMEOUT", "SUBSCRIBE_FAILED")
CLOSER = " `ductape doctor` looks closer: connection, rights, channels."


def run(arguments: Sequence[str]) -> int:
    """Run one command, and return its status."""
    out = Out(json="--json" in arguments)
    if isinstance(logging.lastResort, logging.Handler):  # a command tells itself what its client library warns about
        logging.lastResort.addFilter(logging.Filter("ductape"))
        if "doctor" not in arguments:  # a server's settings are its business, and that of `run`, which logs everything
            logging.lastResort.addFilter(lambda record: not record.name.startswith("ductape.adapter."))
    try:
        status = app(arguments, result_action="return_value", exit_on_error=False, print_error=False)
    except DuctapeError as error:
        out.error(error.code, f"{error}{CLOSER if error.code in AWAY else ''}")
        return 1
    except CycloptsError as error:
        out.error("USAGE", _usage(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has read enough
        sys.stderr.close()
        return 0
    return status if isinstance(status, int) else 0


def _usage(error: CycloptsError) -> str:
    """Say what is wrong with the arguments: of one that is missing, what it is."""
    if not isinstance(error, MissingArgumentError) or error.app is None or error.argument is None:
        return str(error)
    name = error.argument.field_info.name
    asked = error.app.assemble_argument_collection(parse_docstring=True)
    told = next((each.parameter.help for each in asked if each.field_info.name == name), None)
    return f"{name.upper()} is missing: {told}"
