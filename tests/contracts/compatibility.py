"""Whether today's messages still take what was written before: JSON schemas, old against new.

Only adding is allowed: no field removed, no type narrowed, no new required field, no other default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

Schema = Mapping[str, Any]


def schemas(types: Mapping[str, tuple[type, str]]) -> dict[str, Any]:
    """Return the schemas of all types: `roots` by name, and the `parts` they refer to."""
    names = list(types)
    roots, parts = msgspec.json.schema_components(
        [types[name][0] for name in names], ref_template="{name}", schema_hook=_anything
    )
    made = {"roots": dict(zip(names, roots, strict=True)), "parts": parts}
    as_json: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return as_json


def _anything(kind: type) -> dict[str, Any]:
    """Stand in for `object`: JSON values of any kind."""
    if kind is not object:
        raise NotImplementedError(kind)
    return {"description": "any JSON value"}


def breaks(old: Schema, new: Schema) -> list[str]:
    """Return every way in which something valid before is not valid, or means another thing, now."""
    found: list[str] = []
    for name, root in old["roots"].items():
        if name not in new["roots"]:
            found.append(f"{name}: removed")
        else:
            compared: set[tuple[str, str]] = set()
            found += _compare(name, root, new["roots"][name], old["parts"], new["parts"], compared)
    return sorted(set(found))


def _compare(  # noqa: PLR0911
    at: str,
    old: Schema,
    new: Schema,
    old_parts: Schema,
    new_parts: Schema,
    compared: set[tuple[str, str]],
) -> list[str]:
    pair = (old.get("$ref", ""), new.get("$ref", ""))
    if any(pair):
        if pair in compared:
            return []
        compared.add(pair)
    old, new = old_parts.get(pair[0], old), new_parts.get(pair[1], new)

    def inside(where: str, a: Schema, b: Schema) -> list[str]:
        return _compare(where, a, b, old_parts, new_parts, compared)

    if "anyOf" in old or "anyOf" in new:
        choices = new.get("anyOf", [new])
        for one in old.get("anyOf", [old]):
            if all(inside(at, one, choice) for choice in choices):
                return [f"{at}: no longer takes {dict(one)}"]
        return []
    if "enum" in old:
        return [
            f"{at}: no longer takes {v!r}" for v in old["enum"] if v not in new.get("enum", [v])
        ]
    if not _same_type(old.get("type"), new.get("type")):
        return [f"{at}: was {old.get('type')}, is {new.get('type')}"]
    if old.get("type") == "object" and "properties" in old:
        return list(_fields(at, old, new, inside))
    for key in ("items", "additionalProperties"):
        if isinstance(old.get(key), dict):
            return inside(f"{at}[]", old[key], new.get(key, {}))
    return []


def _fields(at: str, old: Schema, new: Schema, inside: Any) -> Iterator[str]:
    properties = new.get("properties", {})
    for name in set(new.get("required", [])) - set(old.get("required", [])):
        yield f"{at}.{name}: has become required"
    for name, field in old["properties"].items():
        if name not in properties:
            yield f"{at}.{name}: removed"
            continue
        yield from inside(f"{at}.{name}", field, properties[name])
        if field.get("default") != properties[name].get("default"):
            yield f"{at}.{name}: default was {field.get('default')!r}"


def _same_type(old: Any, new: Any) -> bool:
    return old == new or new is None or (old, new) == ("integer", "number")
