"""Walking over message types: what is reachable from the registry, and example values of each."""

from __future__ import annotations

import importlib
import pkgutil
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

import glowplug_contracts.messages as messages_package
import msgspec
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.image import ImageManifest
from glowplug_contracts.streams import BUCKETS
from glowplug_contracts.subjects import Subject

DEPTH_MAX = 8


def named_subjects() -> dict[str, Subject[Any]]:
    """Return the registry by the names it gives its entries."""
    module = importlib.import_module("glowplug_contracts.subjects")
    return {name: one for name, one in vars(module).items() if isinstance(one, Subject)}


def wire_types() -> dict[str, tuple[type, str]]:
    """Return every top-level type that is written somewhere: name → type and wire.

    A subject's payload is `CALL.v1`, its reply `PROBE.v1.reply`, a bucket's value `kv-tokens.v1`,
    a body of the Python door `http-MapRequest.v1`, a frame of the direct path `link-CallSent.v1`.
    """
    found: dict[str, tuple[type, str]] = {}
    for name, subject in named_subjects().items():
        version = subject.template.partition(".")[0]
        found[f"{name}.{version}"] = (subject.payload, subject.wire)
        if subject.reply is not None:
            found[f"{name}.{version}.reply"] = (subject.reply, subject.wire)
    for bucket in BUCKETS:
        found[f"kv-{bucket.name}.v1"] = (bucket.value, "json")
    for door in ("http", "link"):
        module = f"{messages_package.__name__}.{door}"
        for kind in message_types():
            if kind.__module__ == module:
                found[f"{door}-{kind.__name__}.v1"] = (kind, "msgpack")
    # Read back from blobs, for as long as the blobs live.
    found["blob-ImageManifest.v1"] = (ImageManifest, "msgpack")
    return found


def message_types() -> list[type[Message]]:
    """Return every message type that the contracts define."""
    found = []
    for info in pkgutil.walk_packages(messages_package.__path__, messages_package.__name__ + "."):
        module = importlib.import_module(info.name)
        found += [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, Message)
            and value.__module__ == info.name
        ]
    return found


def reachable(kind: Any, seen: set[type] | None = None) -> set[type]:
    """Return the structs that a value of a type may hold, itself included."""
    seen = set() if seen is None else seen
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind not in seen:
            seen.add(kind)
            for field in msgspec.structs.fields(kind):
                reachable(field.type, seen)
    else:
        for part in typing.get_args(kind):
            reachable(part, seen)
    return seen


def samples() -> Iterator[tuple[str, type, str, str, Any]]:
    """Return two values of every wire type: only what must be given, and everything given."""
    for name, (kind, wire) in wire_types().items():
        yield name, kind, wire, "minimal", value_of(kind, full=False)
        yield name, kind, wire, "full", value_of(kind, full=True)


def value_of(  # noqa: PLR0911 - a table of kinds
    kind: Any, *, full: bool, name: str = "", depth: int = 0
) -> Any:
    """Return an example of a type that is the same on every day; no field has its default if `full`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, typing.NewType):
        kind = kind.__supertype__
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind(
            **{
                field.name: value_of(field.type, full=full, name=field.name, depth=depth + 1)
                for field in msgspec.structs.fields(kind)
                if field.required or (full and depth < DEPTH_MAX)
            }
        )
    if isinstance(kind, type) and issubclass(kind, Enum):
        return list(kind)[-1]
    if origin in (typing.Union, types.UnionType):
        inner = next(part for part in args if part is not type(None))
        return value_of(inner, full=full, name=name, depth=depth)
    if origin is typing.Literal:
        return args[-1]
    if origin is tuple:
        return (value_of(args[0], full=full, name=name, depth=depth),)
    if origin is list:
        return [value_of(args[0], full=full, name=name, depth=depth)]
    if origin in (frozenset, set):
        return origin({value_of(args[0], full=full, name=name, depth=depth)})
    if origin is dict:
        key = value_of(args[0], full=full, name=name, depth=depth)
        return {key: value_of(args[1], full=full, name=name, depth=depth)}
    plain = {str: f"{name or 'word'}-1", int: 7, float: 2.5, bool: True, bytes: b"\x00bytes"}
    if kind in plain:
        return plain[kind]
    if kind is Any or kind is object:
        return {"any": [1, "two"]}
    raise TypeError(f"no example for {kind!r} ({name})")
