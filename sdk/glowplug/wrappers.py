"""The objects that decorators make: call them here or there, one at a time or by the thousand.

Each keeps the user's function (`__glowplug_fn__`, `__wrapped__`) and what was asked for. In a container
they are inert: called, they are the function. There `remote`, `spawn` and `put` go through the runner's
door; `map` and `deploy` are refused.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, cast

from glowplug.errors import NotYetSupportedError
from glowplug.parameters import refuse_method
from glowplug.remote import is_remote, load_attribute

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from glowplug.asked import Asked
    from glowplug.client.batching import Measured
    from glowplug.client.deploying import Deployed
    from glowplug.client.session import Session
    from glowplug.composing import Signature
    from glowplug.options import PutOptions
    from glowplug.putting import PutMany
    from glowplug.tasks import FunctionCall, Task

P = ParamSpec("P")
R = TypeVar("R")

CO_GENERATOR = 0x20
CO_COROUTINE = 0x80
CO_ASYNC_GENERATOR = 0x200


class Wrapper(Generic[P, R]):
    """What all three kinds have in common."""

    kind = "function"

    def __init__(self, function: Callable[..., Any], asked: Asked) -> None:
        self.__glowplug_fn__ = function
        self.__wrapped__ = function
        self.asked = asked
        flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
        self.is_generator = bool(flags & (CO_GENERATOR | CO_ASYNC_GENERATOR))
        self.is_async = bool(flags & (CO_COROUTINE | CO_ASYNC_GENERATOR))
        for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))
        self.measured: Measured | None = None  # how long one input of a map takes
        self._deployed: tuple[Session, Deployed] | None = None

    @property
    def name(self) -> str:
        """The deployment's name."""
        return self.asked.name

    @property
    def local(self) -> Local[P, R]:
        """Run the function here, in this process."""
        return Local(self.__glowplug_fn__)

    @property
    def deploy(self) -> Deploy:
        """Deploy it under its name: a new version, which un-versioned calls reach from now on."""
        return Deploy(self)

    def deployed_in(self, session: Session) -> Deployed | None:
        """Return its deployment, if it has one in this session."""
        found = self._deployed
        return found[1] if found is not None and found[0] is session else None

    def set_deployed(self, session: Session, deployed: Deployed) -> None:
        """Remember its deployment."""
        self._deployed = (session, deployed)

    def __getattr__(self, name: str) -> NoReturn:
        refuse_method(self.kind, name)

    def __reduce__(self) -> tuple[Any, ...]:
        # Functions that refer to each other ship together: by name where one leads here.
        function = self.__glowplug_fn__
        module, qualname = function.__module__, function.__qualname__
        if "<" not in qualname and module != "__main__" and _leads_here(self, module, qualname):
            return load_attribute, (module, qualname)
        return _rebuild, (type(self), function, self.asked)

    def __repr__(self) -> str:
        return f"<glowplug {self.kind} {self.asked.name}>"


class Function(Wrapper[P, R]):
    """A function made by `@function`."""

    kind = "function"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it on the platform and return its result; inside a container, run it right here."""
        if is_remote():
            result: R = self.__glowplug_fn__(*args, **kwargs)
            return result
        return self.remote(*args, **kwargs)

    @property
    def remote(self) -> Remote[P, R]:
        """Run it on the platform and wait for its result; a generator's items come as they are made."""
        return Remote(self)

    @property
    def spawn(self) -> Spawn[P, FunctionCall]:
        """Have it run durably; returns a FunctionCall at once."""
        from glowplug.tasks import FunctionCall  # noqa: PLC0415 - only for durable work

        return Spawn(self, FunctionCall, wait_when_full=False)

    def options(self, **options: Unpack[PutOptions]) -> Optioned[P, FunctionCall]:
        """Say something about durable work: `f.options(delay=60).spawn(…)`. See `PutOptions`."""
        from glowplug.options import put_options  # noqa: PLC0415
        from glowplug.tasks import FunctionCall  # noqa: PLC0415

        return Optioned(
            Spawn(self, FunctionCall, wait_when_full=False, said=put_options(**options))
        )

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return the function with arguments, for chains and groups; nothing is run by it."""
        from glowplug.composing import Signature  # noqa: PLC0415 - only for compositions

        return Signature(self, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Return the same; it waits for what comes before it, and gets nothing of it."""
        from glowplug.composing import Signature  # noqa: PLC0415 - only for compositions

        return Signature(self, args, kwargs, immutable=True)

    @property
    def map(self) -> Map[R]:
        """Run it once for each input (or each tuple of inputs, for several iterables)."""
        return Map(self, starred=False)

    @property
    def starmap(self) -> Map[R]:
        """Run it once for each tuple of arguments."""
        return Map(self, starred=True)

    @property
    def for_each(self) -> ForEach:
        """Call it for each input, and drop the results."""
        return ForEach(self)


class Endpoint(Wrapper[P, R]):
    """A function made by `@endpoint`: called over HTTP, and from Python with `.remote`."""

    kind = "endpoint"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it on the platform and return its result; inside a container, run it right here."""
        if is_remote():
            result: R = self.__glowplug_fn__(*args, **kwargs)
            return result
        return self.remote(*args, **kwargs)

    @property
    def remote(self) -> Remote[P, R]:
        """Run it on the platform and wait for its result."""
        return Remote(self)


class TaskQueue(Wrapper[P, R]):
    """A function made by `@task_queue`: work is put, and done when there is room."""

    kind = "task_queue"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Inside a container, run it right here; elsewhere `put` or `local` is meant."""
        if is_remote():
            result: R = self.__glowplug_fn__(*args, **kwargs)
            return result
        raise TypeError(
            f"{self.name} is a task queue: {self.name}.put(…) queues work, {self.name}.local(…) runs "
            "it here"
        )

    @property
    def put(self) -> Spawn[P, Task]:
        """Queue work; returns a Task once it is stored for good. Waits a while where it is full."""
        from glowplug.tasks import Task  # noqa: PLC0415 - only for durable work

        return Spawn(self, Task, wait_when_full=True)

    def options(self, **options: Unpack[PutOptions]) -> Optioned[P, Task]:
        """Say something about one piece of work: `q.options(delay=60).put(…)`. See `PutOptions`."""
        from glowplug.options import put_options  # noqa: PLC0415
        from glowplug.tasks import Task  # noqa: PLC0415

        return Optioned(Spawn(self, Task, wait_when_full=True, said=put_options(**options)))

    @property
    def put_many(self) -> PutMany:
        """Queue much work together, as `map` takes its inputs; returns the tasks once all are stored."""
        from glowplug.putting import PutMany  # noqa: PLC0415 - only for durable work

        return PutMany(self, {})

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return the function with arguments, for chains and groups; nothing is run by it."""
        from glowplug.composing import Signature  # noqa: PLC0415 - only for compositions

        return Signature(self, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Return the same; it waits for what comes before it, and gets nothing of it."""
        from glowplug.composing import Signature  # noqa: PLC0415 - only for compositions

        return Signature(self, args, kwargs, immutable=True)

    @property
    def delay(self) -> Spawn[P, Task]:
        """Queue work; the name that Celery's users know for `put`."""
        return self.put

    def apply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Task:
        """Queue work as Celery's users write it: `countdown`, `eta`, `expires`, `priority` and ours."""
        from glowplug.composing import Signature  # noqa: PLC0415
        from glowplug.options import celery_options  # noqa: PLC0415
        from glowplug.tasks import Task  # noqa: PLC0415

        link, link_error = options.pop("link", ()), options.pop("link_error", ())
        if link or link_error:
            signature = self.s(*args, **dict(kwargs or {}))
            signature.said.update(celery_options(**options))
            for followers, add in ((link, Signature.on_complete), (link_error, Signature.on_error)):
                several = followers if isinstance(followers, (list, tuple)) else (followers,)
                signature = add(signature, *several) if several else signature
            followed: Task = signature.put()
            return followed
        put: Spawn[Any, Task] = Spawn(
            self, Task, wait_when_full=True, said=celery_options(**options)
        )
        return put(*args, **dict(kwargs or {}))


class Local(Generic[P, R]):
    """The function itself, in this process."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it, and return its result; an `async def` runs to its end."""
        result: Any = self._function(*args, **kwargs)
        if hasattr(result, "cr_frame"):
            import asyncio  # noqa: PLC0415 - 30 ms, and only for async functions

            result = asyncio.run(result)
        return cast("R", result)

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it, a plain function in a thread of its own; return its result."""
        import asyncio  # noqa: PLC0415

        result: Any
        if asyncio.iscoroutinefunction(self._function):
            result = await self._function(*args, **kwargs)
        else:
            result = await asyncio.to_thread(self._function, *args, **kwargs)
        return cast("R", result)


class Remote(Generic[P, R]):
    """One call on the platform."""

    def __init__(self, wrapper: Wrapper[P, R]) -> None:
        self._wrapper = wrapper

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it there; wait for its result, or get an iterator of a generator's items."""
        from glowplug.client import calling  # noqa: PLC0415 - what needs the network, when needed

        if self._wrapper.is_generator:
            return cast("R", calling.stream_blocking(self._wrapper, args, kwargs))
        error, result = calling.call_blocking(self._wrapper, args, kwargs)
        if error is not None:
            raise error
        return cast("R", result)

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Run it there; await its result. A generator's items: `async for item in f.remote.aio()`."""
        from glowplug.client import calling  # noqa: PLC0415

        if self._wrapper.is_generator:
            return calling.Stream(self._wrapper, args, kwargs)  # type: ignore[return-value]
        return calling.call_aio(self._wrapper, args, kwargs)


T = TypeVar("T")


class Spawn(Generic[P, T]):
    """Durable work: accepted, and done sooner or later."""

    def __init__(
        self,
        wrapper: Wrapper[P, Any],
        result: type[T],
        *,
        wait_when_full: bool,
        said: Mapping[str, Any] | None = None,
    ) -> None:
        self._wrapper = wrapper
        self._result = result
        self._wait_when_full = wait_when_full
        self._said = said or {}

    @property
    def wrapper(self) -> Wrapper[P, Any]:
        """The function."""
        return self._wrapper

    @property
    def said(self) -> Mapping[str, Any]:
        """What is said about the work."""
        return self._said

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Have it accepted; return what stands for it."""
        from glowplug.client import calling  # noqa: PLC0415

        self._check()
        task_id = calling.spawn_blocking(
            self._wrapper, args, kwargs, wait_when_full=self._wait_when_full, options=self._said
        )
        return self._result(task_id)  # type: ignore[call-arg]

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Have it accepted; await what stands for it."""
        from glowplug.client.loop import background  # noqa: PLC0415

        return background().wait(self._accept(args, kwargs))

    async def _accept(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        from glowplug.client import calling  # noqa: PLC0415

        self._check()
        task_id = await calling.spawn(
            self._wrapper, args, kwargs, wait_when_full=self._wait_when_full, options=self._said
        )
        return self._result(task_id)  # type: ignore[call-arg]

    def _check(self) -> None:
        if self._wrapper.is_generator:
            name = "put" if self._wait_when_full else "spawn"
            raise NotYetSupportedError(
                f"{self._wrapper.name} is a generator; {name} of generators is not yet supported; "
                "use remote(), or return a list"
            )


class Optioned(Generic[P, T]):
    """A function with something said about its next work; it can be used again and again."""

    def __init__(self, spawn: Spawn[P, T]) -> None:
        self._spawn = spawn

    @property
    def put(self) -> Spawn[P, T]:
        """Queue work; returns what stands for it once it is stored for good."""
        return self._spawn

    @property
    def put_many(self) -> PutMany:
        """Queue much work together, all with what was said."""
        from glowplug.putting import PutMany  # noqa: PLC0415 - only for durable work

        return PutMany(self._spawn.wrapper, self._spawn.said)

    @property
    def spawn(self) -> Spawn[P, T]:
        """Have it run durably; the same as `put`."""
        return self._spawn


class Map(Generic[R]):
    """Many calls: inputs pulled lazily, in batches of a size that is measured."""

    def __init__(self, wrapper: Wrapper[Any, R], *, starred: bool) -> None:
        self._wrapper = wrapper
        self._starred = starred

    def __call__(
        self,
        *inputs: Iterable[Any],
        order_outputs: bool = True,
        return_exceptions: bool = False,
    ) -> Iterator[R]:
        """Yield the results, in the order of the inputs.

        Args:
            inputs: one iterable, or (map only) several that are zipped.
            order_outputs: False yields each result as it comes.
            return_exceptions: put an exception in its slot instead of raising it.
        """
        self._check(inputs)
        from glowplug.client import calling  # noqa: PLC0415

        values = self._arguments(inputs)
        return calling.map_blocking(
            self._wrapper, values, ordered=order_outputs, return_exceptions=return_exceptions
        )

    def aio(
        self,
        *inputs: Iterable[Any] | AsyncIterable[Any],
        order_outputs: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncIterator[R]:
        """Yield the results asynchronously; the inputs may be an async iterable."""
        self._check(inputs)
        from glowplug.client import calling  # noqa: PLC0415

        first = inputs[0]
        values: Iterator[tuple[Any, ...]] | AsyncIterator[tuple[Any, ...]]
        if isinstance(first, AsyncIterable):
            if len(inputs) > 1:
                raise TypeError("map takes one async iterable, or several plain ones")
            values = self._arguments_aio(first)
        else:
            values = self._arguments(inputs)  # type: ignore[arg-type]
        return calling.map_aio(
            self._wrapper, values, ordered=order_outputs, return_exceptions=return_exceptions
        )

    def _arguments(self, inputs: tuple[Iterable[Any], ...]) -> Iterator[tuple[Any, ...]]:
        if self._starred:
            return (tuple(value) for value in inputs[0])
        return zip(*inputs, strict=False)

    async def _arguments_aio(self, values: AsyncIterable[Any]) -> AsyncIterator[tuple[Any, ...]]:
        async for value in values:
            yield tuple(value) if self._starred else (value,)

    def _check(self, inputs: tuple[Any, ...]) -> None:
        name = "starmap" if self._starred else "map"
        if not inputs or (self._starred and len(inputs) > 1):
            raise TypeError(f"{name}() takes {'one iterable' if self._starred else 'an iterable'}")
        if self._wrapper.is_generator:
            raise NotYetSupportedError(
                f"{self._wrapper.name} is a generator; {name} over generators is not yet supported; "
                "return a list"
            )


class ForEach:
    """Many calls whose results nobody wants."""

    def __init__(self, wrapper: Wrapper[Any, Any]) -> None:
        self._map: Map[Any] = Map(wrapper, starred=False)

    def __call__(self, *inputs: Iterable[Any], ignore_exceptions: bool = False) -> None:
        """Call it for each input and wait for all.

        Args:
            inputs: one iterable, or several that are zipped.
            ignore_exceptions: go on where an input fails, instead of raising it.
        """
        for _ in self._map(*inputs, order_outputs=False, return_exceptions=ignore_exceptions):
            pass

    async def aio(
        self, *inputs: Iterable[Any] | AsyncIterable[Any], ignore_exceptions: bool = False
    ) -> None:
        """Call it for each input and await all; the inputs may be an async iterable."""
        async for _ in self._map.aio(
            *inputs, order_outputs=False, return_exceptions=ignore_exceptions
        ):
            pass


class Deploy:
    """Deploying under a name."""

    def __init__(self, wrapper: Wrapper[Any, Any]) -> None:
        self._wrapper = wrapper

    def __call__(self) -> Deployed:
        """Deploy; return the new version once its image stands."""
        from glowplug.client.loop import background  # noqa: PLC0415

        return background().run(self._deploy())

    def aio(self) -> Awaitable[Deployed]:
        """Deploy; await the new version."""
        from glowplug.client.loop import background  # noqa: PLC0415

        return background().wait(self._deploy())

    async def _deploy(self) -> Deployed:
        refuse_inside(self._wrapper, "deploy")
        from glowplug.client.session import current_session  # noqa: PLC0415

        return await current_session().deploy(self._wrapper, ephemeral=False)


def refuse_inside(wrapper: Wrapper[Any, Any], method: str) -> None:
    """Refuse what would reach the platform from inside a container.

    Raises: NotYetSupportedError.
    """
    if is_remote():
        raise NotYetSupportedError(
            f"{wrapper.name}.{method}() inside a container is not yet supported; call the function "
            f"itself, {wrapper.name}(…). If this is the program's start, put it under "
            '`if __name__ == "__main__":`'
        )


def _leads_here(wrapper: Wrapper[Any, Any], module: str, qualname: str) -> bool:
    try:
        return load_attribute(module, qualname) is wrapper
    except (ImportError, AttributeError):
        return False


def _rebuild(
    cls: type[Wrapper[Any, Any]], function: Callable[..., Any], asked: Asked
) -> Wrapper[Any, Any]:
    return cls(function, asked)
