"""JSON schemas whose answers come to an end, and what is right by them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

_VALUES: dict[str, dict[str, Any]] = {
    "enum": {"enum": ["red", "green", 3, None, "blue sky"]},
    "const": {"const": {"kind": "fixed", "parts": [1, True]}},
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "minimum": -20, "maximum": 1234},
    "exclusive": {"type": "integer", "exclusiveMinimum": 7, "exclusiveMaximum": 12},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 95},
    "nullable": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
    "string": {"type": "string", "minLength": 1, "maxLength": 12},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "either": {"anyOf": [{"type": "boolean"}, {"enum": ["a", "b"]}, {"type": "null"}]},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "boolean"}, {"enum": [1, 2]}],
        "items": False,
        "minItems": 2,
    },
    "object": {
        "type": "object",
        "properties": {"id": {"type": "integer", "minimum": 1, "maximum": 99}, "ok": {}},
        "required": ["id"],
        "additionalProperties": False,
    },
}
_VALUES["object"]["properties"]["ok"] = {"type": "boolean"}


def _record(value: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"first": value, "second": value, "third": {"enum": ["x", "y"]}},
        "required": ["first", "third"],
        "additionalProperties": False,
    }


def _list(value: dict[str, Any]) -> dict[str, Any]:
    return {"$defs": {"one": value}, "type": "array", "items": {"$ref": "#/$defs/one"}} | {
        "minItems": 1,
        "maxItems": 3,
    }


SCHEMAS: dict[str, dict[str, Any]] = {
    f"{name} {form.__name__.strip('_')}".strip(): form(value)
    for name, value in _VALUES.items()
    for form in (dict, _record, _list)
}
"""Forty and more: each kind of value by itself, in objects, and in lists."""


def require_valid(text: str, schema: dict[str, Any]) -> Any:
    """The value that ``text`` spells, proved to be one that ``schema`` allows."""
    value = json.loads(text)
    jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(value)
    assert text == json.dumps(value, ensure_ascii=False), "it has other blanks than a template's"
    return value
