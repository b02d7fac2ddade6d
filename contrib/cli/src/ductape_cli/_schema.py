"""`ductape schema`: JSON Schema of manifests, for editors."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ductape import Registry
from ductape.adapter import Secret
from ductape.errors import DuctapeError

__all__ = ["manifest_schema", "schema"]

_TEXT = {"type": "string"}
_VARIABLE = {"type": "string", "pattern": r"\$\{"}


def schema() -> int:
    """Print the JSON Schema of a manifest, with the configs of the adapters that are installed.

    For editors: `ductape schema > ductape.schema.json`, and `#:schema ductape.schema.json` on a manifest's first line.
    """
    print(msgspec.json.format(msgspec.json.encode(manifest_schema()), indent=2).decode())
    return 0


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a manifest, for what is installed here."""
    definitions: dict[str, Any] = {}
    choices = []
    for each in Registry().installed():
        try:
            config = Registry().adapter(each.name, where="the schema names it").config
        except DuctapeError:  # it is broken: `ductape providers` says how
            continue
        [made], components = msgspec.json.schema_components(
            [config], schema_hook=_secret, ref_template=f"#/$defs/{each.name}.{{name}}"
        )
        definitions |= {f"{each.name}.{name}": _written(component) for name, component in components.items()}
        kind = {"type": "string", "pattern": f"^{''.join(map(_either, each.name))}$"}
        choices.append({"if": {"properties": {"type": kind}}, "then": {"properties": {"config": made}}})
    env = {
        "type": "object",
        "properties": {
            "slug": _TEXT,
            "type": {"type": "string", "examples": [each.name for each in Registry().installed()]},
            "config": {"type": "object"},
            "create": {"type": "boolean"},
        },
        "required": ["slug", "type"],
        "allOf": choices,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ductape manifest",
        "type": "object",
        "properties": {
            "product": _TEXT,
            "broker": {
                "type": "array",
                "items": _object({"tag": _TEXT, **_NAMED, "env": {"type": "array", "items": env}}),
            },
            "topic": {"type": "array", "items": _object({"tag": _TEXT, **_NAMED, **_TOPIC})},
        },
        "$defs": definitions,
    }


_NAMED = {"name": _TEXT, "description": _TEXT}
_TOPIC = {
    "message_broker_tag": _TEXT,
    "sample": {},
    "queue_url": {"type": ["object", "array"]},
    "order": {"enum": ["none", "key", "total"]},
    "groups": {"type": "array", "items": _TEXT},
    "options": {"type": "object"},
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": ["tag"]}


def _secret(kind: type) -> dict[str, Any]:
    if issubclass(kind, Secret):
        return {"type": "string", "writeOnly": True}
    return {"title": "anything"}  # `native` takes what the client library takes


def _written(component: dict[str, Any]) -> dict[str, Any]:
    """Return a component as users may write it: both spellings of a key, and a variable for every value."""
    fields = component.get("properties")
    if not fields:
        return component
    written: dict[str, Any] = {}
    for name, field in fields.items():
        kind = field if field.get("type") == "string" else {"anyOf": [field, _VARIABLE]}
        written[name] = written[_camel(name)] = kind
    required = [name for name in component.get("required", []) if name == _camel(name)]
    return {**component, "properties": written, "required": required, "additionalProperties": False}


def _either(letter: str) -> str:
    """Return a pattern for a letter of a provider's name: ECMAScript's, which has no flag for the case."""
    if letter == "_":
        return "[-_]"
    return f"[{letter.upper()}{letter.lower()}]" if letter.isalpha() else letter


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)
