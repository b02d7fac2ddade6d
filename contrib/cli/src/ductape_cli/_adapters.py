"""`ductape providers` and `ductape new-adapter`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ductape import Registry
from ductape.errors import ConfigError, DuctapeError

from ._out import Out
from ._where import Json

__all__ = ["new_adapter", "providers"]

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def providers(*, json: Json = False) -> int:
    """List the adapters that are installed, and what each can do at most.

    What holds for a channel may be less: see the provider's page.

    Args:
        json: Write JSON, with every capability.
    """
    registry, rows = Registry(), []
    for each in registry.installed():
        row: dict[str, Any] = {"type": each.name, "package": f"{each.distribution} {each.version}"}
        try:
            can = registry.adapter(each.name, where=f"{each.name} is listed").capabilities
        except DuctapeError as error:
            rows.append(
                row | {"problem": str(error)} if json else row | dict.fromkeys(_SHORT, "?") | {"notes": str(error)}
            )
            continue
        told = {name: _plain(getattr(can, name)) for name in can.__struct_fields__}
        rows.append(
            row | {"capabilities": told}
            if json
            else row | {name: _short(told[name]) for name in _SHORT} | {"notes": ""}
        )
    Out(json=json).table(rows, empty="no adapter is installed: pip install ductape-memory, for instance")
    return 0


_SHORT = ("order", "groups", "durability", "count", "retry_delay", "send_delay", "history")


def _plain(value: object) -> object:
    name = getattr(value, "name", None)
    if isinstance(name, str):
        return name.lower()
    return "unlimited" if value == float("inf") else value


def _short(value: object) -> object:
    """Tell a capability to people: seconds as days, where they are many."""
    if not isinstance(value, float):
        return value
    return f"{value // 86_400:g} days" if value >= 86_400 else f"{value:g} s" if value else "none"


def new_adapter(name: str, *, into: Path | None = None) -> int:
    """Begin an adapter: a distribution that works as it is, and the tests that prove it.

    Args:
        name: The provider as users will write it under `type`, in lower case: `acme`, `acme_queue`.
        into: A folder that is not there yet; without it, `ductape-NAME` here.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError("OPTION_INVALID", f"name {name!r}: lower case letters, digits and single underscores.")
    folder = into or Path(f"ductape-{name.replace('_', '-')}")
    if folder.exists():
        raise ConfigError("OPTION_INVALID", f"{folder} is there already: name another folder with --into.")
    distribution = f"ductape-{name.replace('_', '-')}"
    if _version(distribution):
        raise ConfigError("OPTION_INVALID", f"name {name!r}: {distribution} is installed already; choose another name.")
    template = _template()
    try:
        for source in _files(template):
            target = folder / filled(str(source.relative_to(template)), name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(filled(source.read_text(encoding="utf-8"), name), encoding="utf-8")
    except OSError as error:
        text = f"{folder} cannot be written: {error.strerror}. Name another folder with --into."
        raise ConfigError("OPTION_INVALID", text, option="into") from error
    print(f"{folder} is an adapter that keeps its messages in memory, and passes the conformance kit.")
    print(f'Next: cd {folder} && pip install -e ".[test]" && pytest')
    return 0


def _version(distribution: str) -> str:
    """Return the version that is installed, or nothing."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _template() -> Path:
    here = Path(__file__).parent
    # In a checkout it lies beside the sources.
    return next(path for path in (here / "template", here.parents[1] / "template") if path.is_dir()).resolve()


def _files(folder: Path) -> Iterator[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return (path for path in found if not {"__pycache__", ".pytest_cache"} & set(path.parts))


def filled(text: str, name: str) -> str:
    """Return a text of the template with `name` in place of its words."""
    return text.replace("NAME", name).replace("Camel", name.title().replace("_", ""))
