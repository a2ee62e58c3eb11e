"""Check JSON arguments against what a deployment declares (`inputs`): pure.

Values come from a JSON body, or as text from a query. Every complaint names the field's path
("user.tags[2]"); all complaints are collected, so that a caller can correct them at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.messages.deployment import FieldSpec

DEPTH_MAX = 64
COMPLAINTS_MAX = 50
FIELD_TYPES = frozenset(
    {
        "string",
        "integer",
        "float",
        "boolean",
        "list",
        "enum",
        "object",
        "json",
    }
)

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def parse_object(body: bytes) -> dict[str, object]:
    """Return the JSON object in a body; an empty body is an empty object.

    Raises: InvalidRequestError (request.invalid): no JSON, no object, or nested beyond DEPTH_MAX.
    """
    if not body:
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError) as err:
        raise invalid({"": f"the body is no JSON: {err}"}) from err
    if not isinstance(value, dict):
        raise invalid({"": "the body must be a JSON object: its members are the arguments"})
    # Counting brackets is quick and rarely exceeds the bound; only then is the depth measured.
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX and _depth(value) > DEPTH_MAX:
        raise invalid({"": f"the body is nested deeper than {DEPTH_MAX}"})
    return value


def check_inputs(
    specs: Mapping[str, FieldSpec], values: Mapping[str, object], *, text: frozenset[str]
) -> dict[str, object]:
    """Return the arguments, with defaults filled in and texts from a query converted.

    Args:
        specs: what the deployment declares.
        values: what came.
        text: names whose values came as text.

    Raises: InvalidRequestError whose details map each path to what is wrong.
    """
    complaints: dict[str, str] = {}
    checked = _fields(specs, values, "", complaints, text)
    if complaints:
        raise invalid(complaints)
    return checked


def check_specs(specs: Mapping[str, FieldSpec], path: str, depth: int = 0) -> dict[str, str]:
    """Return what is wrong with a declaration itself, by path."""
    if depth > DEPTH_MAX:
        return {path: f"nested deeper than {DEPTH_MAX}"}
    wrong: dict[str, str] = {}
    for name, spec in specs.items():
        here = f"{path}.{name}"
        if spec.type not in FIELD_TYPES:
            wrong[here] = (
                f"{spec.type!r} is no field type; there are {', '.join(sorted(FIELD_TYPES))}"
            )
        if spec.type == "enum" and not spec.choices:
            wrong[here] = "an enum needs choices"
        wrong |= check_specs(spec.fields, here, depth + 1)
        if spec.items is not None:
            wrong |= check_specs({"items": spec.items}, here, depth + 1)
    return wrong


def invalid(fields: Mapping[str, str]) -> InvalidRequestError:
    """Return the 422 that names these fields."""
    first = next(iter(fields))
    message = f"{first}: {fields[first]}" if first else fields[first]
    return InvalidRequestError("request.invalid", message, details={"fields": dict(fields)})


def _fields(
    specs: Mapping[str, FieldSpec],
    values: Mapping[str, object],
    path: str,
    complaints: dict[str, str],
    text: frozenset[str] = frozenset(),
) -> dict[str, object]:
    checked: dict[str, object] = {}
    for name, spec in specs.items():
        here = f"{path}.{name}" if path else name
        if name in values:
            value = values[name]
            if name in text and isinstance(value, str):
                value = _from_text(spec, value)
            checked[name] = _value(spec, value, here, complaints)
        elif spec.optional or spec.default is not None:
            checked[name] = spec.default
        else:
            _complain(complaints, here, "is missing")
    for name in values:
        if name not in specs:
            _complain(complaints, f"{path}.{name}" if path else name, "is not an input")
    return checked


def _value(spec: FieldSpec, value: object, path: str, complaints: dict[str, str]) -> object:
    if value is None:
        if not (spec.optional or spec.type == "json"):
            _complain(complaints, path, f"must be {_ARTICLES[spec.type]}, not null")
        return spec.default
    match spec.type:
        case "list":
            return _list(spec, value, path, complaints)
        case "object":
            return _object(spec, value, path, complaints)
        case "float" if isinstance(value, int) and not isinstance(value, bool):
            return _float(value, path, complaints)
        case "integer" if isinstance(value, float) and value.is_integer():
            return int(value)
        case "enum" if value not in spec.choices:
            _complain(complaints, path, f"must be one of {', '.join(spec.choices)}")
        case _ if not _fits(spec.type, value):
            _complain(complaints, path, f"must be {_ARTICLES[spec.type]}")
        case _:
            pass
    return value


def _float(value: int, path: str, complaints: dict[str, str]) -> object:
    try:
        return float(value)
    except OverflowError:
        _complain(complaints, path, f"must be {_ARTICLES['float']} that is not too large")
        return value


def _list(spec: FieldSpec, value: object, path: str, complaints: dict[str, str]) -> object:
    if not isinstance(value, list):
        _complain(complaints, path, "must be a list")
        return value
    if spec.items is None:
        return value
    return [_value(spec.items, one, f"{path}[{n}]", complaints) for n, one in enumerate(value)]


def _object(spec: FieldSpec, value: object, path: str, complaints: dict[str, str]) -> object:
    if not isinstance(value, dict):
        _complain(complaints, path, "must be an object")
        return value
    return _fields(spec.fields, value, path, complaints) if spec.fields else value


def _fits(kind: str, value: object) -> bool:
    match kind:
        case "string" | "enum":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, float) and math.isfinite(value)
        case "boolean":
            return isinstance(value, bool)
        case _:
            return True


def _from_text(spec: FieldSpec, text: str) -> object:
    """Return what a query's text means for this type, or the text itself if it means nothing."""
    try:
        match spec.type:
            case "integer":
                return int(text)
            case "float":
                return float(text)
            case "boolean":
                return _BOOLEANS.get(text.lower(), text)
            case "list" | "object" | "json":
                value: object = msgspec.json.decode(text)
                return value
            case _:
                return text
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return text


def _complain(complaints: dict[str, str], path: str, what: str) -> None:
    if len(complaints) < COMPLAINTS_MAX:
        complaints[path] = what


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level:
        below: list[object] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
        deepest += 1
        if deepest > DEPTH_MAX:
            return deepest
        level = [one for one in below if isinstance(one, dict | list)]
    return deepest


_ARTICLES = {
    "string": "a string",
    "integer": "an integer",
    "float": "a finite number",
    "boolean": "true or false",
    "list": "a list",
    "enum": "one of its choices",
    "object": "an object",
    "json": "a JSON value",
}
