"""`queue.put_many(inputs)`: much durable work, sent and stored together."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from glowplug.errors import NotYetSupportedError

if TYPE_CHECKING:
    from glowplug.tasks import Task
    from glowplug.wrappers import Wrapper


class PutMany:
    """Puts one piece of work for each input; see the module."""

    def __init__(self, wrapper: Wrapper[Any, Any], said: Mapping[str, Any]) -> None:
        self._wrapper = wrapper
        self._said = said

    @overload
    def __call__(
        self, *inputs: Iterable[Any], return_exceptions: Literal[False] = False
    ) -> list[Task]: ...
    @overload
    def __call__(
        self, *inputs: Iterable[Any], return_exceptions: Literal[True]
    ) -> list[Task | BaseException]: ...
    def __call__(self, *inputs: Iterable[Any], return_exceptions: bool = False) -> Any:
        """Queue them; return the tasks, in order, once all are stored for good.

        Args:
            inputs: one iterable of arguments, or several that are zipped, as `map` takes them.
            return_exceptions: put the exception of a piece that was refused in its slot. Without it
                the first one is raised, after all pieces were sent; the others are stored.
        """
        from glowplug.client.loop import background  # noqa: PLC0415

        return background().run(self._put(inputs, return_exceptions=return_exceptions))

    def aio(self, *inputs: Iterable[Any], return_exceptions: bool = False) -> Awaitable[Any]:
        """Queue them; await the tasks."""
        from glowplug.client.loop import background  # noqa: PLC0415

        return background().wait(self._put(inputs, return_exceptions=return_exceptions))

    async def _put(
        self, inputs: tuple[Iterable[Any], ...], *, return_exceptions: bool
    ) -> list[Task | BaseException]:
        if not inputs:
            raise TypeError("put_many() takes an iterable")
        if self._wrapper.is_generator:
            raise NotYetSupportedError(
                f"{self._wrapper.name} is a generator; put of generators is not yet supported; "
                "use remote(), or return a list"
            )
        if self._said.get("idempotency_key"):
            raise TypeError("an idempotency key stands for one piece of work; use put for each")
        from glowplug.client.putting import put_many  # noqa: PLC0415
        from glowplug.tasks import Task  # noqa: PLC0415

        found = await put_many(self._wrapper, zip(*inputs, strict=False), self._said)
        errors = [one for one in found if isinstance(one, BaseException)]
        if errors and not return_exceptions:
            raise errors[0]
        return [one if isinstance(one, BaseException) else Task(one) for one in found]
