"""What a function is and takes, read off its code object where that is enough (inspect costs 12 ms)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CO_COROUTINE = 0x80
CO_ASYNC_GENERATOR = 0x200


def is_async(function: Callable[..., object]) -> bool:
    """Return whether calling it gives something that an event loop must run."""
    code = getattr(_plain(function), "__code__", None)
    return code is not None and bool(code.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR))


def context_position(function: Any) -> int | None:
    """Return where a parameter `context` stands (0 = first; keyword-only: far out), None if there is none.

    Decorators that keep `__wrapped__` are looked through, as inspect.signature does.
    """
    bound = 0
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    plain = _plain(function)
    if plain is not function and hasattr(plain, "__self__"):
        bound = 1
    bound = bound or int(hasattr(plain, "__self__"))
    code: Any = getattr(plain, "__code__", None)
    if code is None:
        return None
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount]
    if "context" in names[code.co_posonlyargcount :]:
        return names.index("context") - bound
    keyword_only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return 1 << 30 if "context" in keyword_only else None


def _plain(function: Any) -> object:
    """Return what carries the code: below functools.partial, or an instance's `__call__`."""
    while hasattr(function, "func") and not hasattr(function, "__code__"):
        function = function.func
    if hasattr(function, "__code__") or isinstance(function, type):
        return function
    return getattr(function, "__call__", function)  # noqa: B004 - the bound method is wanted
