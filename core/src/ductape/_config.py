"""Turns what a user wrote into a typed record: spelling, ``${VAR}``, types, and errors that name the place.

A mapping is walked beside the record's type. The walk renames keys, refuses unknown ones and expands variables;
msgspec then converts and validates, and its complaint is told in the user's words. What came from a variable, or goes
into a `Secret`, never appears in an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec.inspect import AnyType, BoolType, FloatType, IntType, NoneType, Type, type_info

from ._secrets import Secret
from .errors import ConfigError, DuctapeError, nearest

S = TypeVar("S", bound=msgspec.Struct)

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^{}]*))?\}|(?P<wrong>\{))")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_COMPLAINT = re.compile(r"(?s)(.*?)(?: - at (?:`key` in )?`\$(.*)`)?\Z")
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
_ANYTHING = AnyType()
_NAMES = {dict: "object", list: "array", type(None): "null"}


def read_config(raw: Mapping[str, object], kind: type[S], *, where: str, environ: Mapping[str, str]) -> S:
    """Read the config of an environment into its adapter's type.

    Args:
        raw: What the catalog holds: camelCase or snake_case, with ``${VAR}`` unexpanded.
        kind: The adapter's config type.
        where: Whose config it is, for errors: ``broker 'order-events', env 'prd'``.
        environ: Where variables are looked up.

    Raises:
        ConfigError: ``CONFIG_INVALID`` or ``VARIABLE_MISSING``, naming the path.
    """
    return read(raw, kind, where=where, root="config", environ=environ)


def read(
    raw: object,
    kind: type[S],
    *,
    where: str,
    root: str = "",
    environ: Mapping[str, str] | None = None,
    error: type[DuctapeError] = ConfigError,
    code: str = "CONFIG_INVALID",
) -> S:
    """Read `raw` into `kind`; without `environ`, ``${VAR}`` stays as it is written.

    Raises:
        DuctapeError: `error` with `code`; ``VARIABLE_MISSING`` is always a ConfigError.
    """
    reader = _Reader(where, environ, error, code)
    shaped = reader.shape(raw, _shape_of(kind), root, "")
    try:
        return msgspec.convert(shaped, kind, dec_hook=_build)
    except msgspec.ValidationError as refused:
        complaint, told_by_author = str(refused), refused.__cause__ is not None
    # Raised out here, the error has no context: msgspec's own text, and what a secret's type says, may hold the value.
    raise reader.translated(complaint, told_by_author)


def expand(text: str, *, where: str, environ: Mapping[str, str]) -> str:
    """Replace ``${VAR}`` and ``${VAR:-default}`` (also for an empty variable); ``$$`` is a dollar.

    Raises:
        ConfigError: ``VARIABLE_MISSING`` or ``CONFIG_INVALID``, beginning with `where`.
    """

    def value(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        if match["wrong"]:
            text = f"{where}: a variable is written ${{NAME}} or ${{NAME:-default}}, and a dollar $$."
            raise ConfigError("CONFIG_INVALID", text)
        name, default = match["name"], match["default"]
        found = environ.get(name)
        if default is not None:
            return found or default
        if found is None:
            text = f"{where}: the environment variable {name} is not set. Set it, or write ${{{name}:-default}}."
            raise ConfigError("VARIABLE_MISSING", text, variable=name)
        return found

    return _VARIABLE.sub(value, text)


def snake(key: str) -> str:
    """Return ``clientId`` as ``client_id``."""
    return _HUMP.sub("_", key).lower()


class _Seen(NamedTuple):
    """A value that the walk met: where the user sees it, what it should be, and whether it may be shown."""

    path: str
    choices: tuple[Type, ...]
    value: object
    hidden: bool


class _Reader:
    """One walk over one mapping."""

    def __init__(self, where: str, environ: Mapping[str, str] | None, error: type[DuctapeError], code: str) -> None:
        self.where, self.environ, self.error, self.code = where, environ, error, code
        self.seen: dict[str, list[_Seen]] = {}  # by msgspec's path, where all values of one dict share a place

    def shape(self, value: object, kind: Type, path: str, spot: str) -> object:
        """Return `value` with the keys, variables and containers that msgspec expects."""
        choices = _choices(kind)
        hidden = False
        if isinstance(value, str) and self.environ is not None:
            hidden = any(match["name"] for match in _VARIABLE.finditer(value))
            value = expand(value, where=self.at(path), environ=self.environ)
            if hidden:
                value = _coerced(value, choices)
        hidden = hidden or any(_is_secret(choice) for choice in choices)
        self.seen.setdefault(spot, []).append(_Seen(path, choices, value, hidden))
        if isinstance(value, Mapping):
            return self.mapping(value, choices, path, spot)
        if isinstance(value, list | tuple):
            item = next((choice.item_type for choice in choices if hasattr(choice, "item_type")), _ANYTHING)
            shaped = [self.shape(each, item, f"{path}[{n}]", f"{spot}[{n}]") for n, each in enumerate(value)]
            return tuple(shaped) if isinstance(value, tuple) else shaped
        return value

    def mapping(
        self, value: Mapping[Any, object], choices: tuple[Type, ...], path: str, spot: str
    ) -> dict[object, object]:
        """Return a mapping with every key as the record names it."""
        record = next((choice for choice in choices if hasattr(choice, "fields")), None)
        if record is None:
            inner = next((choice.value_type for choice in choices if hasattr(choice, "value_type")), _ANYTHING)
            return {key: self.shape(each, inner, _join(path, key), f"{spot}[...]") for key, each in value.items()}
        known = _keys(record)
        shaped: dict[object, object] = {}
        for key, each in value.items():
            field = known.get(key) or known.get(snake(str(key)))
            if field is None:
                raise self.wrong(path, f"unknown key {key!r}.{_hint(str(key), known)}")
            name, kind = field
            if name in shaped:
                raise self.wrong(_join(path, key), "is there twice, in two spellings; keep one.")
            shaped[name] = self.shape(each, kind, _join(path, key), f"{spot}.{name}")
        return shaped

    def at(self, path: str) -> str:
        return f"{self.where}, {path}" if path else self.where

    def wrong(self, path: str, text: str) -> DuctapeError:
        return self.error(self.code, f"{self.at(path)}: {text}", path=path)

    def translated(self, complaint: str, told_by_author: bool) -> DuctapeError:
        """Tell msgspec's complaint in the user's words."""
        match = _COMPLAINT.match(complaint)
        text, spot = (match[1], match[2] or "") if match else (complaint, "")
        found = self.seen.get(spot) or self.seen[""]
        seen = next((one for one in found if _blamed(one.value, text)), found[0])
        # 1. A required field is missing.
        if text.startswith("Object missing required field"):
            return self.wrong(_join(seen.path, text.split("`")[1]), "required, but missing.")
        # 2. None of the possible values: msgspec's text has the value and not the choices.
        if text.startswith("Invalid enum value"):
            shown = "the variable's value" if seen.hidden else repr(seen.value)
            return self.wrong(seen.path, f"{shown} is not one of {', '.join(_values(seen.choices))}.")
        # 3. What an adapter's record says about itself: it may name values.
        if told_by_author:
            return self.wrong(seen.path, f"{self.scrubbed(text).rstrip('.')}.")
        # 4. A wrong type or range.
        text = re.sub(r"`([^`]*)`", lambda word: " or ".join(_WORDS.get(w, w) for w in word[1].split(" | ")), text)
        origin = " from a variable" if seen.hidden and isinstance(seen.value, str) and "got" in text else ""
        return self.wrong(seen.path, f"{text[0].lower()}{text[1:]}{origin}.")

    def scrubbed(self, text: str) -> str:
        for seen in (one for found in self.seen.values() for one in found if one.hidden and one.value):
            value = seen.value.reveal() if isinstance(seen.value, Secret) else str(seen.value)
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "***", text)
        return text


@cache
def _shape_of(kind: type[msgspec.Struct]) -> Type:
    return type_info(kind)


def _choices(kind: Type) -> tuple[Type, ...]:
    types: tuple[Type, ...] = getattr(kind, "types", (kind,))
    return types


def _keys(record: Any) -> dict[object, tuple[str, Type]]:
    """Return every accepted spelling of a record's fields (camelCase aside), with the encoded name and the type."""
    known: dict[object, tuple[str, Type]] = {}
    for field in record.fields:
        for key in (field.name, snake(field.encode_name), field.encode_name):
            known[key] = field.encode_name, field.type
    return known


def _build(kind: type, value: object) -> object:
    """Build what is not a plain type from its instance or from a string."""
    if isinstance(value, kind):
        return value
    if isinstance(value, Secret) and issubclass(kind, Secret):
        return kind(value.reveal())
    if isinstance(value, str):
        try:
            return kind(value)
        except Exception:
            value = None
        raise ValueError(f"this string makes no {kind.__name__}")
    raise TypeError(f"expected a string, got {_WORDS.get(_name(value), _name(value))}")


def _coerced(value: str, choices: tuple[Type, ...]) -> object:
    """Return a variable's text as the number or truth value that the field wants; as it is, if that cannot be."""
    scalars = {IntType: int, FloatType: float, BoolType: bool}  # in this order: "1" is a number before it is true
    plain = {type(choice) for choice in choices if not hasattr(choice, "fields")} - {NoneType}
    if plain <= set(scalars):
        for kind in (scalars[known] for known in scalars if known in plain):
            try:
                return msgspec.convert(value.strip(), kind, strict=False)
            except msgspec.ValidationError:
                continue
    return value


def _is_secret(kind: Type) -> bool:
    cls = getattr(kind, "cls", None)
    return isinstance(cls, type) and issubclass(cls, Secret)


def _values(choices: tuple[Type, ...]) -> list[str]:
    values: list[object] = []
    for choice in choices:
        values += getattr(choice, "values", ())
        values += [member.value for member in getattr(choice, "cls", ())] if type(choice).__name__ == "EnumType" else ()
    return [str(value) for value in values]


def _name(value: object) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _blamed(value: object, text: str) -> bool:
    return f"got `{_name(value)}`" in text or text.endswith(f" {value!r}")


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _hint(key: str, known: Mapping[object, tuple[str, object]]) -> str:
    names = [str(name) for name in known]
    return nearest(snake(key), names) or f" Known: {', '.join(sorted({name for name, _ in known.values()}))}."
