"""Arguments in, results out: pickle between Python programs, JSON for everybody else."""

from __future__ import annotations

from glowplug.runner import short_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCALARS = (type(None), bool, int, float, str, bytes)
FORMATS = ("pickle", "json")


class BadResultError(Exception):
    """The result can't be written in the caller's format."""


class BadArgumentsError(Exception):
    """The arguments can't be read; with pickle usually a module that this side lacks."""


def read_arguments(form: str, body: bytes) -> tuple[tuple[object, ...], dict[str, object], str]:
    """Return (args, kwargs, what the function takes instead of arguments: "" for nothing else).

    Raises: BadArgumentsError from the reason.
    """
    takes = ""
    try:
        if form == "pickle":
            args, kwargs = _loads(body)
        else:
            given = short_json.loads(body)
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
        values = [
            _loads(body) if form == "pickle" else short_json.loads(body) for form, body in passed
        ]
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
    from glowplug.runner import pickling  # noqa: PLC0415 - 3 ms, only between Python programs

    return pickling.write_pickle(value)


def write_json(value: object) -> bytes:
    """Return strict JSON (no NaN). numpy values, dataclasses and pydantic models are written plainly."""
    text = short_json.dumps(value, ascii_only=False, allow_nan=False, default=_plain)
    return text.encode("utf-8", "surrogatepass")


def _loads(body: bytes) -> Any:
    from _pickle import loads  # noqa: PLC0415 - as above

    return loads(body)


def _plain(value: Any) -> object:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None and not isinstance(value, type):
        return {name: getattr(value, name) for name in fields}
    raise TypeError(f"{type(value).__name__} is not JSON")


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
