"""Arguments in, results out: pickle between Python programs, JSON for everybody else."""

from __future__ import annotations

import sys
from _pickle import Pickler, loads
from io import BytesIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 5
SCALARS = (type(None), bool, int, float, str, bytes)
FORMATS = ("pickle", "json")


class BadResultError(Exception):
    """The result can't be written in the caller's format."""


class BadArgumentsError(Exception):
    """The arguments can't be read; with pickle usually a module that this side lacks."""


class _NeedsCloudpickleError(Exception):
    pass


class _ByReferencePickler(Pickler):
    """Pickles what importable names describe, and stops where cloudpickle would write code by value.

    cloudpickle costs 40 ms to import, so the first call should not pay it for a dict of floats.
    """

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, type) or hasattr(obj, "__code__"):
            module = getattr(obj, "__module__", None) or "__main__"
            found: Any = sys.modules.get(module) if module != "__main__" else None
            for name in getattr(obj, "__qualname__", "<").split("."):
                found = getattr(found, name, None)
            if found is not obj:
                raise _NeedsCloudpickleError
        elif isinstance(obj, type(sys)):
            raise _NeedsCloudpickleError
        return NotImplemented


def read_arguments(form: str, body: bytes) -> tuple[tuple[object, ...], dict[str, object], str]:
    """Return (args, kwargs, what the function takes instead of arguments: "" for nothing else).

    Raises: BadArgumentsError from the reason.
    """
    takes = ""
    try:
        if form == "pickle":
            args, kwargs = loads(body)
        else:
            given = _json().loads(body)
            args, kwargs = given.get("args", []), given.get("kwargs", {})
            takes = str(given.get("takes", ""))
        return tuple(args), dict(kwargs), takes
    except Exception as error:
        raise BadArgumentsError(f"the arguments can't be read: {_text(error)}") from error


def read_passed(way: str, passed: list[tuple[str, bytes]]) -> object:
    """Return what a function gets of the results of others: one value, or a list of them.

    Raises: BadArgumentsError from the reason.
    """
    try:
        values = [loads(body) if form == "pickle" else _json().loads(body) for form, body in passed]
    except Exception as error:
        raise BadArgumentsError(f"a result of another can't be read: {_text(error)}") from error
    return values if way == "list" else values[0]


def write_result(form: str, value: object) -> bytes:
    """Return a value in the caller's format.

    Raises: BadResultError from the reason.
    """
    try:
        return write_pickle(value) if form == "pickle" else write_json(value)
    except Exception as error:
        kind = type(value).__name__
        words = "pickled" if form == "pickle" else "written as JSON"
        raise BadResultError(f"the result ({kind}) can't be {words}: {_text(error)}") from error


def write_pickle(value: object) -> bytes:
    """Return a pickle that needs cloudpickle's help on neither side unless the value asks for it."""
    if "glowplug._vendor.cloudpickle" not in sys.modules:
        try:
            buffer = BytesIO()
            _ByReferencePickler(buffer, PROTOCOL).dump(value)
            return buffer.getvalue()
        except _NeedsCloudpickleError:
            pass
    from glowplug._vendor import cloudpickle  # noqa: PLC0415 - 40 ms

    data: bytes = cloudpickle.dumps(value, PROTOCOL)  # type: ignore[no-untyped-call]
    return data


def write_json(value: object) -> bytes:
    """Return strict JSON (no NaN). numpy values, dataclasses and pydantic models are written plainly."""
    text: str = _json().dumps(
        value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    )
    return text.encode("utf-8", "surrogatepass")


def _plain(value: Any) -> object:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None and not isinstance(value, type):
        return {name: getattr(value, name) for name in fields}
    raise TypeError(f"{type(value).__name__} is not JSON")


def _json() -> Any:
    import json  # noqa: PLC0415 - only where somebody speaks JSON

    return json


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
