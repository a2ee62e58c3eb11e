"""Tasks that wait for each other: signatures, chains, groups and chords.

A signature is a function with arguments, and nothing is run by making one. What is composed of them is
accepted as a whole; each part waits, stored for good, until what it needs has ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from glowplug.errors import NotYetSupportedError
from glowplug.options import PutOptions, put_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from glowplug.tasks import Task
    from glowplug.wrappers import Wrapper


class Composed:
    """What can be put: a signature, or what is made of several."""

    def __or__(self, other: Composed) -> Chain:
        """Return a chain: `other` waits for this one and gets its result."""
        return Chain(*self.links_of(), *other.links_of())

    def put(self) -> Any:
        """Have all of it accepted; return what stands for its end."""
        from glowplug.client.loop import background  # noqa: PLC0415

        return background().run(self._put())

    def put_aio(self) -> Awaitable[Any]:
        """Have all of it accepted; await what stands for its end."""
        from glowplug.client.loop import background  # noqa: PLC0415

        return background().wait(self._put())

    def links_of(self) -> tuple[Composed, ...]:
        """Return what it adds to a chain."""
        return (self,)

    async def _put(self) -> Any:
        from glowplug.client.composing import put  # noqa: PLC0415

        return await put(self)


class Signature(Composed):
    """A function with arguments. Results of those it waits for come before its own arguments.

    Attributes:
        immutable: it waits, and gets none of the results (`f.si(…)`).
    """

    def __init__(
        self,
        wrapper: Wrapper[Any, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        immutable: bool = False,
        said: Mapping[str, Any] | None = None,
        successors: tuple[Composed, ...] = (),
        rescuers: tuple[Composed, ...] = (),
    ) -> None:
        if wrapper.is_generator:
            raise NotYetSupportedError(
                f"{wrapper.name} is a generator, which can't be part of a composition; return a list"
            )
        self.wrapper = wrapper
        self.args = args
        self.kwargs = dict(kwargs)
        self.immutable = immutable
        self.said = dict(said or {})
        self.successors = successors
        self.rescuers = rescuers

    def on_complete(self, *others: Composed) -> Signature:
        """Return the same with others that get its result once it has succeeded."""
        _check("on_complete", others)
        return self._like(successors=(*self.successors, *others))

    def on_error(self, *others: Composed) -> Signature:
        """Return the same with others that run if it ends otherwise, with what is known of the failure.

        They get a dictionary: task_id, state, type, message, traceback.
        """
        _check("on_error", others)
        return self._like(rescuers=(*self.rescuers, *others))

    def options(self, **options: Unpack[PutOptions]) -> Signature:
        """Return the same with something said about it."""
        said = {**self.said, **put_options(**options)}
        if "idempotency_key" in said:
            raise ValueError("a composition takes no idempotency key")
        return self._like(said=said)

    def _like(self, **changes: Any) -> Signature:
        kept: dict[str, Any] = {
            "immutable": self.immutable,
            "said": self.said,
            "successors": self.successors,
            "rescuers": self.rescuers,
        }
        return Signature(self.wrapper, self.args, self.kwargs, **(kept | changes))

    set = options  # Celery's name for it

    def __repr__(self) -> str:
        return f"{self.wrapper.name}.s{self.args!r}"


class Chain(Composed):
    """One after the other; each gets the result of the one before (of a group: the list of results)."""

    def __init__(self, *links: Composed) -> None:
        _check("chain", links)
        self.links = tuple(link for one in links for link in one.links_of())

    def links_of(self) -> tuple[Composed, ...]:
        """Return what it adds to a chain."""
        return self.links


class Group(Composed):
    """All at once; `put` returns a TaskGroup."""

    def __init__(self, *members: Composed | Iterable[Composed]) -> None:
        if len(members) == 1 and not isinstance(members[0], Composed):
            members = tuple(members[0])
        _check("group", members)
        self.members: tuple[Composed, ...] = members  # type: ignore[assignment]


def chain(*links: Composed) -> Chain:
    """Return a chain: each link waits for the one before and gets its result."""
    return Chain(*links)


def group(*members: Composed | Iterable[Composed]) -> Group:
    """Return a group: its members run beside each other."""
    return Group(*members)


def chord(header: Group | Iterable[Composed], body: Composed) -> Chain:
    """Return a chain of a group and a body, which gets the list of the group's results."""
    return Chain(header if isinstance(header, Group) else Group(header), body)


class TaskGroup:
    """The tasks that a group became, in its order."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.tasks = tuple(tasks)

    def results(self, timeout: float | None = None) -> list[Any]:
        """Wait for all results, `timeout` seconds for each at most; raise what one ended in."""
        return [task.result(timeout=timeout) for task in self.tasks]

    def cancel(self) -> None:
        """Stop what has not ended."""
        for task in self.tasks:
            task.cancel()

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        return f"TaskGroup({list(self.tasks)!r})"


def _check(what: str, members: tuple[Any, ...]) -> None:
    if not members:
        raise ValueError(f"{what}() needs at least one signature, as in f.s(1)")
    for one in members:
        if not isinstance(one, Composed):
            raise TypeError(f"{what}() takes signatures, as in f.s(1), not {one!r}")
