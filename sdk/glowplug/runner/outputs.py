"""Checks a result against the fields that the deployment declares as `outputs`.

The platform checks inputs at the gateway; outputs are checked here, before they leave.
"""

from __future__ import annotations

from glowplug.runner.payloads import BadResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Fields = dict[str, dict[str, Any]]


def check_outputs(value: object, fields: Fields) -> object:
    """Return the value, unchanged.

    Raises: BadResultError naming every wrong field by its path.
    """
    problems: list[str] = []
    _check_object(_as_mapping(value), fields, "", problems)
    if problems:
        raise BadResultError("the result does not match `outputs`: " + "; ".join(problems))
    return value


def _check_object(value: object, fields: Fields, path: str, problems: list[str]) -> None:
    if not isinstance(value, dict):
        problems.append(f"{path or 'result'} must be an object, not {_name(value)}")
        return
    for name, spec in fields.items():
        if name not in value:
            if not spec.get("optional"):
                problems.append(f"{path}{name} is missing")
        elif not (value[name] is None and spec.get("optional")):
            _check(value[name], spec, f"{path}{name}", problems)
    problems.extend(f"{path}{name} is not expected" for name in value if name not in fields)


def _check(value: object, spec: dict[str, Any], path: str, problems: list[str]) -> None:
    kind = spec.get("type")
    if kind == "list":
        _check_list(value, spec, path, problems)
    elif kind == "object":
        fields = spec.get("fields") or {}
        plain = _as_mapping(value)
        if fields:
            _check_object(plain, fields, f"{path}.", problems)
        elif not isinstance(plain, dict):
            problems.append(f"{path} must be an object, not {_name(value)}")
    elif kind == "enum":
        choices = spec.get("choices") or ()
        if getattr(value, "value", value) not in choices:
            problems.append(f"{path} must be one of {', '.join(choices)}")
    elif kind in EXPECTED and not _is(value, EXPECTED[kind][0]):
        problems.append(f"{path} must be {EXPECTED[kind][1]}, not {_name(value)}")


EXPECTED: dict[object, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "a string"),
    "integer": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "boolean": ((bool,), "true or false"),
}


def _check_list(value: object, spec: dict[str, Any], path: str, problems: list[str]) -> None:
    if not isinstance(value, (list, tuple)):
        problems.append(f"{path} must be a list, not {_name(value)}")
        return
    items = spec.get("items")
    if items:
        for index, item in enumerate(value):
            _check(item, items, f"{path}[{index}]", problems)


def _is(value: object, kinds: tuple[type, ...]) -> bool:
    # numpy's scalars count as what they stand for; True is no number.
    plain = value.item() if hasattr(value, "item") and hasattr(value, "dtype") else value
    return isinstance(plain, kinds) and (bool in kinds or not isinstance(plain, bool))


def _as_mapping(value: object) -> object:
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None and not isinstance(value, type):
        return {name: getattr(value, name) for name in fields}
    return value


def _name(value: object) -> str:
    return "null" if value is None else type(value).__name__
