"""What goes into a function and comes out of it, by name.

Used for `inputs=` and `outputs=`; where `inputs` is absent the function's annotations are read. Over
HTTP the gateway checks JSON against it and answers 422 with the path of each wrong field; a call from
Python is checked here, before anything is sent, when `inputs` was given.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from glowplug.errors import InvalidInputError, NotYetSupportedError

Spec = dict[str, Any]
_MISSING: Any = object()
DEPTH_MAX = 32


class Field:
    """One value: its type, whether it may be left out, and what it is then.

    Attributes:
        type_name: how the platform spells the type.
    """

    type_name: ClassVar[str] = "json"

    def __init__(self, *, optional: bool = False, default: Any = _MISSING) -> None:
        self.has_default = default is not _MISSING
        self.optional = optional or self.has_default
        self.default = default if self.has_default else None
        if self.has_default and default is not None:
            problems: dict[str, str] = {}
            self.check(default, "default", problems)
            if problems:
                raise ValueError(f"{type(self).__name__}: {problems.popitem()[1]}")

    def spec(self) -> Spec:
        """Return the field as the platform stores it."""
        spec: Spec = {"type": self.type_name}
        if self.optional:
            spec["optional"] = True
        if self.default is not None:
            spec["default"] = self.default
        return spec

    def check(self, value: Any, path: str, problems: dict[str, str]) -> None:
        """Add to `problems` what is wrong with a value that was given."""


class String(Field):
    """Text."""

    type_name = "string"

    def check(self, value: Any, path: str, problems: dict[str, str]) -> None:
        """Add to `problems` unless it is text."""
        _expect(value, str, "a string", path, problems)


class Integer(Field):
    """A whole number."""

    type_name = "integer"

    def check(self, value: Any, path: str, problems: dict[str, str]) -> None:
        """Add to `problems` unless it is a whole number."""
        _expect(value, int, "a whole number", path, problems)


class Float(Field):
    """A number."""

    type_name = "float"

    def check(self, value: Any, path: str, problems: dict[str, str]) -> None:
        """Add to `problems` unless it is a number."""
        _expect(value, (int, float), "a number", path, problems)


class Boolean(Field):
    """True or false."""

    type_name = "boolean"

    def check(self, value: Any, path: str, problems: dict[str, str]) -> None:
        """Add to `problems` unless it is true or false."""
        if not isinstance(value, bool):
            problems[path] = f"must be true or false, not {_name(value)}"


class JSON(Field):
    """Anything."""


class List(Field):
    """A list, whose items may have a type."""

    type_name = "list"

    def __init__(
        self,
        items: Field | type[Field] | None = None,
        *,
        optional: bool = False,
        default: Any = _MISSING,
    ) -> None:
        self.items = None if items is None else as_field(items)
        super().__init__(optional=optional, default=default)

    def spec(self) -> Spec:
        """Return the field as the platform stores it."""
        spec = super().spec()
        if self.items is not None:
            spec["items"] = self.items.spec()
        return spec

    def check(self, value: Any, path: str, problems: dict[str, str]) -> None:
        """Add to `problems` unless it is a list of such items."""
        if not isinstance(value, list | tuple):
            problems[path] = f"must be a list, not {_name(value)}"
        elif self.items is not None:
            for index, item in enumerate(value):
                self.items.check(item, f"{path}[{index}]", problems)


class Enum(Field):
    """One of some strings."""

    type_name = "enum"

    def __init__(
        self,
        choices: typing.Iterable[str] | type[enum.Enum],
        *,
        optional: bool = False,
        default: Any = _MISSING,
    ) -> None:
        if isinstance(choices, type):
            self.choices = tuple(str(member.value) for member in choices)
        else:
            self.choices = tuple(choices)
        if not self.choices or not all(isinstance(choice, str) for choice in self.choices):
            raise ValueError("Enum takes one or more strings")
        super().__init__(optional=optional, default=default)

    def spec(self) -> Spec:
        """Return the field as the platform stores it."""
        return {**super().spec(), "choices": list(self.choices)}

    def check(self, value: Any, path: str, problems: dict[str, str]) -> None:
        """Add to `problems` unless it is one of the choices."""
        plain = value.value if isinstance(value, enum.Enum) else value
        if plain not in self.choices:
            problems[path] = f"must be one of {', '.join(self.choices)}"


class Object(Field):
    """An object with named fields: a Schema, a dataclass, or a dictionary of fields."""

    type_name = "object"

    def __init__(
        self,
        fields: Any = None,
        *,
        optional: bool = False,
        default: Any = _MISSING,
    ) -> None:
        self.fields = {} if fields is None else fields_of(fields)
        super().__init__(optional=optional, default=default)

    def spec(self) -> Spec:
        """Return the field as the platform stores it."""
        spec = super().spec()
        if self.fields:
            spec["fields"] = {name: field.spec() for name, field in self.fields.items()}
        return spec

    def check(self, value: Any, path: str, problems: dict[str, str]) -> None:
        """Add to `problems` unless it is an object with those fields."""
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if not isinstance(value, Mapping):
            problems[path] = f"must be an object, not {_name(value)}"
        elif self.fields:
            check_fields(self.fields, value, f"{path}.", problems)


class Schema:
    """Base for named fields: subclass it and set attributes, or pass a dictionary of fields."""

    def __init__(self, fields: Mapping[str, Field | type[Field]] | None = None) -> None:
        own = fields or {}
        self.fields = {name: as_field(field) for name, field in own.items()}
        self.fields.update(
            {
                name: as_field(value)
                for cls in reversed(type(self).__mro__)
                for name, value in vars(cls).items()
                if isinstance(value, Field)
                or (isinstance(value, type) and issubclass(value, Field))
            }
        )


def __getattr__(name: str) -> Any:
    if name in {"File", "Image"}:
        raise NotYetSupportedError(
            f"schema.{name} is not yet supported; pass bytes from Python, or text over HTTP"
        )
    raise AttributeError(f"module 'glowplug.schema' has no attribute {name!r}")


def as_field(value: Any) -> Field:
    """Return a field for a Field, or for a Field class without arguments."""
    if isinstance(value, Field):
        return value
    if isinstance(value, type) and issubclass(value, Field):
        return value()
    raise TypeError(f"{value!r} is no schema field; use schema.String(), schema.Integer(), …")


def fields_of(value: Any) -> dict[str, Field]:
    """Return the named fields of what `inputs=` or `outputs=` was given.

    Raises: NotYetSupportedError for msgspec Structs and pydantic models; TypeError otherwise.
    """
    if isinstance(value, Schema):
        return value.fields
    if isinstance(value, type) and issubclass(value, Schema):
        return value().fields
    if isinstance(value, type) and dataclasses.is_dataclass(value):
        return _dataclass_fields(value, 0)
    if isinstance(value, Mapping):
        return {str(name): as_field(field) for name, field in value.items()}
    if hasattr(value, "__struct_fields__") or hasattr(value, "model_fields"):
        raise NotYetSupportedError(
            f"inputs/outputs={getattr(value, '__name__', value)!r}: msgspec Structs and pydantic "
            "models are not yet supported; use schema.Schema or a dataclass"
        )
    raise TypeError(f"{value!r} is no schema; use schema.Schema, a dataclass, or a dict of fields")


def fields_of_signature(function: Callable[..., Any]) -> dict[str, Field] | None:
    """Return the fields that a function's parameters describe; None if it takes any keyword.

    A parameter without a (known) annotation is JSON. `context` is the platform's to fill. None also
    where a default is something that JSON can't say.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    hints = _hints(function)
    fields: dict[str, Field] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
            return None
        if parameter.kind is parameter.POSITIONAL_ONLY:
            return None
        if name == "context":
            continue
        field = _field_of_hint(hints.get(name, Any), 0)
        if parameter.default is not parameter.empty:
            if not _is_plain(parameter.default):
                return None  # JSON can't say the default, so the function fills it in, unchecked
            field.optional, field.default = True, parameter.default
        fields[name] = field
    return fields


def check_fields(
    fields: Mapping[str, Field], values: Mapping[str, Any], prefix: str, problems: dict[str, str]
) -> None:
    """Add to `problems`, by path, what is missing, unknown or of the wrong type."""
    for name, field in fields.items():
        if name not in values:
            if not field.optional:
                problems[f"{prefix}{name}"] = "is missing"
        elif not (values[name] is None and field.optional):
            field.check(values[name], f"{prefix}{name}", problems)
    for name in values:
        if name not in fields:
            problems[f"{prefix}{name}"] = "is not expected"


def checked_inputs(fields: Mapping[str, Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with defaults filled in.

    Raises: InvalidInputError naming every wrong field.
    """
    problems: dict[str, str] = {}
    check_fields(fields, values, "", problems)
    if problems:
        words = "; ".join(f"{path} {what}" for path, what in problems.items())
        raise InvalidInputError(words, details={"fields": problems})
    filled = {
        name: field.default
        for name, field in fields.items()
        if field.has_default and name not in values
    }
    return {**filled, **values}


def _dataclass_fields(cls: Any, depth: int) -> dict[str, Field]:
    hints = _hints(cls)
    fields: dict[str, Field] = {}
    for item in dataclasses.fields(cls):
        if not item.init:
            continue
        field = _field_of_hint(hints.get(item.name, Any), depth + 1)
        default: Any = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        if default is not dataclasses.MISSING:
            if not _is_plain(default):
                raise TypeError(
                    f"{cls.__name__}.{item.name}: the default {default!r} can't be said in JSON"
                )
            field.optional, field.has_default, field.default = True, True, default
        fields[item.name] = field
    return fields


def _field_of_hint(hint: Any, depth: int) -> Field:  # noqa: PLR0911 - one line per kind of hint
    simple: dict[Any, type[Field]] = {str: String, int: Integer, float: Float, bool: Boolean}
    if hint in simple:
        return simple[hint]()
    if depth > DEPTH_MAX:
        return JSON()
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _field_of_hint(arguments[0], depth + 1)
    if hint is list or origin is list:
        return List(_field_of_hint(arguments[0], depth + 1) if arguments else None)
    if hint is dict or origin is dict:
        return Object()
    if origin is typing.Literal and all(isinstance(choice, str) for choice in arguments):
        return Enum(arguments)
    if origin in {typing.Union, types.UnionType}:
        others = [argument for argument in arguments if argument is not type(None)]
        if len(others) == 1:
            # `int | None` may be null; whether it may be left out is for the default to say. The
            # platform's fields have one word for both, so without a default anything is let through.
            field = _field_of_hint(others[0], depth + 1)
            return _Nullable(field)
    return JSON()


class _Nullable(Field):
    """A value or null: typed where it may also be left out, otherwise unchecked."""

    def __init__(self, inner: Field) -> None:
        super().__init__()
        self.inner = inner

    def spec(self) -> Spec:
        if not self.optional:
            return {"type": "json"}
        spec = {**self.inner.spec(), "optional": True}
        return spec if self.default is None else {**spec, "default": self.default}

    def check(self, value: Any, path: str, problems: dict[str, str]) -> None:
        if value is not None:
            self.inner.check(value, path, problems)


def _hints(thing: Any) -> dict[str, Any]:
    # A hint may name what only the image has; then nothing is known, and nothing is checked.
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except Exception:  # noqa: BLE001 - evaluating a hint runs the user's code
        return {}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or type(value) in {str, int, float, bool}


def _expect(
    value: Any, kinds: type | tuple[type, ...], words: str, path: str, problems: dict[str, str]
) -> None:
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        problems[path] = f"must be {words}, not {_name(value)}"


def _name(value: Any) -> str:
    return "null" if value is None else type(value).__name__
