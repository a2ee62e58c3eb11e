"""From a wrapper and Python arguments to the platform and back: what `.remote`, `.map` and `.spawn` do.

Pickling and unpickling happen in the caller's thread, where the user's classes are at home and where
they hold up nobody else.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from glowplug.client import calls, wire
from glowplug.client.here import current_session
from glowplug.client.loop import background
from glowplug.client.outcomes import Ended, read_value, remote_exception, settle, value_of
from glowplug.remote import is_remote
from glowplug.schema import checked_inputs
from glowplug.wrappers import Wrapper

if TYPE_CHECKING:
    from glowplug_contracts.messages.invocation import Payload, RemoteError

    from glowplug.client.deploying import Deployed
    from glowplug.client.session import Session

Any_ = Wrapper[Any, Any]
Arguments = tuple[Any, ...]


def call_blocking(
    wrapper: Any_, args: Arguments, kwargs: dict[str, Any]
) -> tuple[BaseException | None, Any]:
    """Call and wait; return what the function raised, or None and its result.

    The exception is raised by the caller, so that few frames of ours stand in its traceback.
    """
    session = current_session()
    deployed = _deployed_blocking(session, wrapper)
    data = dump_arguments(wrapper, args, kwargs, deployed.python_there)
    return settle(_call(session, deployed.deployment_id, data), deployed.python_there)


def _call(session: Session, deployment_id: str, data: bytes) -> Ended:
    invocation_id = calls.new_invocation_id()
    if is_remote():
        return background().run(
            calls.call(session.http, deployment_id, data, invocation_id=invocation_id)
        )
    from glowplug.client.direct import NotHereError  # noqa: PLC0415 - not in containers

    try:
        return calls.call_directly(session.http, deployment_id, data, invocation_id)
    except NotHereError:
        long_way = calls.call(session.http, deployment_id, data, invocation_id=invocation_id)
        return background().run(long_way)
    except KeyboardInterrupt:
        background().run(calls.cancel_call(session.http, invocation_id))
        raise


async def call_aio(wrapper: Any_, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """Call and await."""
    session = current_session()
    deployed = await background().wait(session.deployment_of(wrapper))
    data = dump_arguments(wrapper, args, kwargs, deployed.python_there)
    ended = await background().wait(calls.call(session.http, deployed.deployment_id, data))
    return value_of(ended, deployed.python_there)


def stream_blocking(
    wrapper: Any_, args: Arguments, kwargs: dict[str, Any]
) -> Generator[Any, None, None]:
    """Yield a generator's items as they come."""
    session = current_session()
    deployed = _deployed_blocking(session, wrapper)
    data = dump_arguments(wrapper, args, kwargs, deployed.python_there)
    items = calls.stream(session.http, deployed.deployment_id, data)
    run = background().run
    try:
        while True:
            found = run(_next(items))
            if found is None:
                return
            yield _item(found, run(_bytes(session, found)), deployed)
    finally:
        run(_close(items))


class Stream:
    """A generator's items, asynchronously; awaiting it is allowed and changes nothing."""

    def __init__(self, wrapper: Any_, args: Arguments, kwargs: dict[str, Any]) -> None:
        self._wrapper, self._args, self._kwargs = wrapper, args, kwargs

    def __await__(self) -> Generator[Any, None, Stream]:
        return (yield from _itself(self).__await__())

    async def __aiter__(self) -> AsyncIterator[Any]:
        session = current_session()
        wait = background().wait
        deployed = await wait(session.deployment_of(self._wrapper))
        data = dump_arguments(self._wrapper, self._args, self._kwargs, deployed.python_there)
        items = calls.stream(session.http, deployed.deployment_id, data)
        try:
            while (found := await wait(_next(items))) is not None:
                yield _item(found, await wait(_bytes(session, found)), deployed)
        finally:
            await wait(_close(items))


def spawn_blocking(
    wrapper: Any_,
    args: Arguments,
    kwargs: dict[str, Any],
    *,
    wait_when_full: bool,
    options: Mapping[str, Any],
) -> str:
    """Have durable work accepted; return its id."""
    session = current_session()
    deployed = _deployed_blocking(session, wrapper)
    data = dump_arguments(wrapper, args, kwargs, deployed.python_there)
    options = _identified(options, args, kwargs, data)
    invocation_id = calls.new_invocation_id()
    if not is_remote():
        from glowplug.client.direct import NotHereError  # noqa: PLC0415 - not in containers

        with contextlib.suppress(NotHereError):
            return calls.spawn_directly(
                session.http, deployed.deployment_id, data, invocation_id, options=options
            )
    return background().run(
        calls.spawn(
            session.http,
            deployed.deployment_id,
            data,
            wait_when_full=wait_when_full,
            options=options,
            invocation_id=invocation_id,
        )
    )


async def spawn(
    wrapper: Any_,
    args: Arguments,
    kwargs: dict[str, Any],
    *,
    wait_when_full: bool,
    options: Mapping[str, Any],
) -> str:
    """Have durable work accepted; return its id. Runs in the background loop."""
    session = current_session()
    deployed = await session.deployment_of(wrapper)
    data = dump_arguments(wrapper, args, kwargs, deployed.python_there)
    return await calls.spawn(
        session.http,
        deployed.deployment_id,
        data,
        wait_when_full=wait_when_full,
        options=_identified(options, args, kwargs, data),
    )


def _identified(
    options: Mapping[str, Any], args: Arguments, kwargs: dict[str, Any], data: bytes
) -> Mapping[str, Any]:
    """Return the options, with what tells whether a key comes again with other arguments."""
    if "idempotency_key" not in options:
        return options
    return {**options, "fingerprint": wire.fingerprint((args, kwargs), data)}


def map_blocking(
    wrapper: Any_, values: Iterator[Arguments], *, ordered: bool, return_exceptions: bool
) -> Generator[Any, None, None]:
    """Yield the results of many calls."""
    if is_remote():
        yield from _map_inside(
            wrapper, values, ordered=ordered, return_exceptions=return_exceptions
        )
        return
    from glowplug.client.batching import BatchSizer  # noqa: PLC0415 - not in containers
    from glowplug.client.mapping import Course, Flight, map_inputs  # noqa: PLC0415

    session = current_session()
    deployed = _deployed_blocking(session, wrapper)
    sizer = BatchSizer(wrapper.measured)
    course = Course(
        lambda one: dump_arguments(wrapper, one, {}, deployed.python_there),
        sizer,
        ordered=ordered,
        return_exceptions=return_exceptions,
        python_there=deployed.python_there,
    )
    flight = Flight(session.http, deployed.deployment_id)
    try:
        yield from map_inputs(flight, course, values)
    finally:
        wrapper.measured = sizer.measured


async def map_aio(
    wrapper: Any_,
    values: Iterator[Arguments] | AsyncIterator[Arguments],
    *,
    ordered: bool,
    return_exceptions: bool,
) -> AsyncIterator[Any]:
    """Yield the results of many calls, asynchronously."""
    if is_remote():
        inside = _map_inside_aio(
            wrapper, values, ordered=ordered, return_exceptions=return_exceptions
        )
        async with contextlib.aclosing(inside):
            async for result in inside:
                yield result
        return
    from glowplug.client.batching import BatchSizer  # noqa: PLC0415 - not in containers
    from glowplug.client.mapping import Course, Flight, map_inputs_aio  # noqa: PLC0415

    session = current_session()
    deployed = await background().wait(session.deployment_of(wrapper))
    sizer = BatchSizer(wrapper.measured)
    course = Course(
        lambda one: dump_arguments(wrapper, one, {}, deployed.python_there),
        sizer,
        ordered=ordered,
        return_exceptions=return_exceptions,
        python_there=deployed.python_there,
    )
    flight = Flight(session.http, deployed.deployment_id)
    async_values = values if isinstance(values, AsyncIterator) else _as_async(values)
    results = map_inputs_aio(flight, course, async_values)
    try:
        async for result in results:
            yield result
    finally:
        wrapper.measured = sizer.measured
        await results.aclose()  # type: ignore[attr-defined]


def _map_inside(
    wrapper: Any_, values: Iterator[Arguments], *, ordered: bool, return_exceptions: bool
) -> Generator[Any, None, None]:
    from glowplug.inside.mapping import Course, Flight, map_inputs  # noqa: PLC0415 - not outside

    session = current_session()
    deployed = _deployed_blocking(session, wrapper)
    course = Course(
        lambda one: dump_arguments(wrapper, one, {}, deployed.python_there),
        ordered=ordered,
        return_exceptions=return_exceptions,
        python_there=deployed.python_there,
    )
    yield from map_inputs(Flight(session.http, deployed.deployment_id), course, values)


async def _map_inside_aio(
    wrapper: Any_,
    values: Iterator[Arguments] | AsyncIterator[Arguments],
    *,
    ordered: bool,
    return_exceptions: bool,
) -> AsyncGenerator[Any, None]:
    from glowplug.inside.mapping import Course, Flight, map_inputs_aio  # noqa: PLC0415

    session = current_session()
    deployed = await background().wait(session.deployment_of(wrapper))
    course = Course(
        lambda one: dump_arguments(wrapper, one, {}, deployed.python_there),
        ordered=ordered,
        return_exceptions=return_exceptions,
        python_there=deployed.python_there,
    )
    flight = Flight(session.http, deployed.deployment_id)
    async_values = values if isinstance(values, AsyncIterator) else _as_async(values)
    async with contextlib.aclosing(map_inputs_aio(flight, course, async_values)) as results:
        async for result in results:
            yield result


def dump_arguments(
    wrapper: Any_, args: Arguments, kwargs: dict[str, Any], python_there: str
) -> bytes:
    """Return the arguments' bytes, checked first: against `inputs` where given, else the signature.

    Raises: InvalidInputError, or TypeError as the function itself would.
    """
    fields = wrapper.asked.inputs
    if wrapper.asked.inputs_given and fields is not None:
        kwargs = checked_inputs(fields, _by_name(wrapper, args, kwargs))
        args = ()
    return wire.dump((args, kwargs), python_there)


def _by_name(wrapper: Any_, args: Arguments, kwargs: dict[str, Any]) -> dict[str, Any]:
    if not args:
        return kwargs
    names = [
        name for name in inspect.signature(wrapper.__wrapped__).parameters if name != "context"
    ]
    if len(args) > len(names):
        raise TypeError(f"{wrapper.name}() takes {len(names)} arguments, not {len(args)}")
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _deployed_blocking(session: Session, wrapper: Any_) -> Deployed:
    found = wrapper.deployed_in(session)
    return found if found is not None else background().run(session.deployment_of(wrapper))


def _item(found: Payload | RemoteError, data: bytes, deployed: Deployed) -> Any:
    error = _error_in(found)
    if error is not None:
        raise remote_exception(error)
    return read_value(str(cast("Payload", found).format), data, deployed.python_there)


async def _bytes(session: Session, found: Payload | RemoteError) -> bytes:
    if _error_in(found) is not None:
        return b""
    return await calls.payload_bytes(session.http, cast("Payload", found))


def _error_in(found: Payload | RemoteError) -> RemoteError | None:
    """Return the error in which a stream has ended; known by its fields, the same everywhere."""
    return cast("RemoteError", found) if hasattr(found, "traceback") else None


async def _next(items: AsyncIterator[Payload | RemoteError]) -> Payload | RemoteError | None:
    return await anext(items, None)


async def _close(items: AsyncIterator[Any]) -> None:
    await items.aclose()  # type: ignore[attr-defined]


async def _itself(stream: Stream) -> Stream:
    return stream


async def _as_async(values: Iterator[Arguments]) -> AsyncIterator[Arguments]:
    for value in values:
        yield value
