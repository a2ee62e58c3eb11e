"""JSON by the part of the standard library that is written in C, without the package around it.

`import json` brings `re`, `enum`, `collections` and `functools` along: 6 ms that every cold start would wait
for. What the short way does not settle (a mistake, a rare encoding, an interpreter that lacks it) is left to
the package, so values and errors are always those of `json`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_c: Any
try:
    import _json as _c
except ImportError:
    _c = None

SPACE = " \t\n\r"
_NUMBERS = {"-Infinity": float("-inf"), "Infinity": float("inf"), "NaN": float("nan")}


class _Usual:
    """How `json.loads` reads without options."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = float
    parse_int = int
    parse_constant = _NUMBERS.__getitem__
    memo: dict[str, str] = {}


_scan = None if _c is None else _c.make_scanner(_Usual)


def loads(data: bytes) -> Any:
    """Return what `json.loads` returns, or raise what it raises."""
    if _scan is not None:
        try:
            text = data.decode("utf-8", "surrogatepass").strip(SPACE)
            value, end = _scan(text, 0)
        except (ValueError, StopIteration, RecursionError):
            end = -1
        else:
            if end == len(text):
                return value
    import json  # noqa: PLC0415 - see the module

    return json.loads(data)


def dumps(
    value: object,
    *,
    ascii_only: bool = True,
    allow_nan: bool = True,
    default: Callable[[Any], object] | None = None,
) -> str:
    """Return what `json.dumps` returns with these options and no spaces, or raise what it raises."""
    if _c is not None:
        write = _c.encode_basestring_ascii if ascii_only else _c.encode_basestring
        usual = (None, ":", ",", False, False, allow_nan)
        try:
            return "".join(_c.make_encoder({}, default or _refuse, write, *usual)(value, 0))
        except (TypeError, ValueError, RecursionError):
            pass
    import json  # noqa: PLC0415 - see the module

    return json.dumps(
        value,
        separators=(",", ":"),
        ensure_ascii=ascii_only,
        allow_nan=allow_nan,
        default=default,
    )


def _refuse(value: object) -> object:
    raise TypeError(type(value).__name__)
