"""Blocking methods with an awaitable twin: `f.remote(1)` and `await f.remote.aio(1)`.

A method is written once, as a coroutine that runs in the client's own event loop. Called plainly, the
caller's thread waits for it; `.aio` awaits it from the caller's loop. Either way a cancellation or
Ctrl-C reaches the coroutine before it is re-raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class Blocking(Generic[P, R]):
    """One such method, bound to its object."""

    def __init__(
        self,
        start: Callable[P, Coroutine[Any, Any, R]],
        plain: Callable[P, R] | None = None,
    ) -> None:
        self._start = start
        self._plain = plain

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do it, and wait for the result."""
        if self._plain is not None:
            return self._plain(*args, **kwargs)
        from glowplug.client.loop import background  # noqa: PLC0415 - asyncio is loaded when needed

        return background().run(self._start(*args, **kwargs))

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Do it; await the result."""
        from glowplug.client.loop import background  # noqa: PLC0415

        return background().wait(self._start(*args, **kwargs))


class blocking(Generic[S, P, R]):  # noqa: N801 - used as a decorator
    """Make a coroutine method blocking, and give it the twin `.aio`."""

    def __init__(self, method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]]) -> None:
        self._method = method
        self._plain: Callable[Concatenate[S, P], R] | None = None
        self.__doc__ = method.__doc__

    def plainly(self, method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        """Do plain calls this way, in the caller's thread, where the loop's detour can be spared."""
        self._plain = method
        return method

    @overload
    def __get__(self, instance: None, owner: type) -> blocking[S, P, R]: ...
    @overload
    def __get__(self, instance: S, owner: type) -> Blocking[P, R]: ...
    def __get__(self, instance: S | None, owner: type) -> blocking[S, P, R] | Blocking[P, R]:
        if instance is None:
            return self
        method: Callable[P, Coroutine[Any, Any, R]] = self._method.__get__(instance, owner)
        plain: Callable[P, R] | None = self._plain and self._plain.__get__(instance, owner)
        return Blocking(method, plain)


class blocking_static(Generic[P, R]):  # noqa: N801 - used as a decorator
    """The same for what belongs to a class and not to one object, such as `from_id`."""

    def __init__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: object, owner: type) -> Blocking[P, R]:
        return Blocking(self._function)
