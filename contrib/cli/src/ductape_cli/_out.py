"""What a command says: tables for people, JSON for programs; progress and remarks go to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

__all__ = ["Out"]


class Out:
    """Where a command writes to."""

    def __init__(self, *, json: bool) -> None:
        """Write JSON, or for people."""
        self.json = json

    def table(self, rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
        """Write rows that have the same keys: one JSON list, or a table; `empty` is said where there are none."""
        if self.json:
            self._write(_encoded(rows))
        elif not rows:
            self.note(empty)
        else:
            from rich import box
            from rich.table import Table

            table = Table(*(name.replace("_", " ") for name in rows[0]), box=box.SIMPLE_HEAD, pad_edge=False)
            for row in rows:
                table.add_row(*(_told(value) for value in row.values()))
            self._print(table)

    def record(self, fields: Mapping[str, Any]) -> None:
        """Write one thing: a JSON object on one line, or a line for each field."""
        if self.json:
            self._write(_encoded(fields))
        else:
            width = max(map(len, fields), default=0)
            for name, value in fields.items():
                self._write(f"{name.replace('_', ' '):<{width}}  {_told(value)}")

    def line(self, text: str, fields: Mapping[str, Any]) -> None:
        """Write one of many: the text, or a JSON object on one line."""
        self._write(_encoded(fields) if self.json else text)

    def note(self, text: str) -> None:
        """Tell a person something; not part of the result."""
        if not self.json:
            print(text, file=sys.stderr, flush=True)

    def error(self, code: str, text: str) -> None:
        """Tell why it could not be done, on standard error."""
        text = text.removeprefix(f"{code}: ")
        failure = _encoded({"error": {"code": code, "text": text}})
        print(failure if self.json else f"error: {code}: {text}", file=sys.stderr, flush=True)

    def _write(self, text: str) -> None:
        print(text, flush=True)

    def _print(self, what: object) -> None:
        from rich.console import Console

        # A pipe or a file gets the whole table, however wide the terminal was.
        Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(what)


def _encoded(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=_plain).decode()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Iterable) else str(value)


def _told(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return _encoded(value) if isinstance(value, Mapping) else str(value)
