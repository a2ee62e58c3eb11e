"""`@endpoint`, `@function` and `@task_queue`.

Each may be used bare or with parameters. What is written is checked at once; what this release does
not take yet is refused with a sentence (`parameters.py` has the table).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from glowplug.asked import ask
from glowplug.image import Image
from glowplug.model import Model
from glowplug.parameters import HONOURED
from glowplug.policies import QueueDepthAutoscaler, TaskPolicy
from glowplug.secret import Secret
from glowplug.units import Cpu
from glowplug.volume import Volume
from glowplug.wrappers import Endpoint, Function, TaskQueue

P = ParamSpec("P")
R = TypeVar("R")
Env = Mapping[str, str] | Sequence[str]


class FunctionMaker(Protocol):
    """`@function(...)`: makes a Function of a function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Function[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, AsyncIterator[R]]) -> Function[P, Iterator[R]]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Function[P, R]: ...


class EndpointMaker(Protocol):
    """`@endpoint(...)`: makes an Endpoint of a function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Endpoint[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, AsyncIterator[R]]) -> Endpoint[P, Iterator[R]]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Endpoint[P, R]: ...


class TaskQueueMaker(Protocol):
    """`@task_queue(...)`: makes a TaskQueue of a function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> TaskQueue[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> TaskQueue[P, R]: ...


@overload
def endpoint(target: Callable[P, Coroutine[Any, Any, R]], /) -> Endpoint[P, R]: ...
@overload
def endpoint(target: Callable[P, AsyncIterator[R]], /) -> Endpoint[P, Iterator[R]]: ...
@overload
def endpoint(target: Callable[P, R], /) -> Endpoint[P, R]: ...
@overload
def endpoint(
    *,
    app: str = "",
    name: str | None = None,
    cpu: Cpu | None = None,
    memory: int | str | tuple[int | str, int | str] | None = None,
    ephemeral_disk: int | str | None = None,
    gpu: str | Sequence[str] = "",
    gpu_count: int | None = None,
    gpu_memory: int | str | None = None,
    image: Image | None = None,
    env: Env | None = None,
    secrets: Sequence[Secret | str] | None = None,
    volumes: Sequence[Volume] | None = None,
    models: Sequence[Model] | Mapping[str, Model] | None = None,
    block_network: bool | None = None,
    allow_list: Sequence[str] | None = None,
    workers: int = 1,
    concurrent_requests: int = 1,
    keep_warm_seconds: float | None = None,
    max_pending_tasks: int | None = None,
    timeout: float | None = None,
    retries: int | None = None,
    retry_for: Sequence[type[BaseException]] | None = None,
    no_retry_for: Sequence[type[BaseException]] | None = None,
    task_policy: TaskPolicy | None = None,
    autoscaler: QueueDepthAutoscaler | None = None,
    on_start: Callable[..., Any] | None = None,
    on_exit: Callable[..., Any] | None = None,
    checkpoint_enabled: bool | None = None,
    authorized: bool = True,
    inputs: Any = None,
    outputs: Any = None,
    priority: int = 0,
    **others: Any,
) -> EndpointMaker: ...
def endpoint(target: Callable[..., Any] | None = None, /, **given: Any) -> Any:
    """Make an HTTP handler: JSON members (and the query) become keyword arguments.

    The parameters are those of the signature above; the guide has a page for each kind. Inside a
    container the result is only the function.
    """
    return _make("endpoint", Endpoint, target, given)


@overload
def function(target: Callable[P, Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
@overload
def function(target: Callable[P, AsyncIterator[R]], /) -> Function[P, Iterator[R]]: ...
@overload
def function(target: Callable[P, R], /) -> Function[P, R]: ...
@overload
def function(
    *,
    app: str = "",
    name: str | None = None,
    cpu: Cpu | None = None,
    memory: int | str | tuple[int | str, int | str] | None = None,
    ephemeral_disk: int | str | None = None,
    gpu: str | Sequence[str] = "",
    gpu_count: int | None = None,
    gpu_memory: int | str | None = None,
    image: Image | None = None,
    env: Env | None = None,
    secrets: Sequence[Secret | str] | None = None,
    volumes: Sequence[Volume] | None = None,
    models: Sequence[Model] | Mapping[str, Model] | None = None,
    block_network: bool | None = None,
    allow_list: Sequence[str] | None = None,
    workers: int = 1,
    concurrent_requests: int = 1,
    keep_warm_seconds: float | None = None,
    max_pending_tasks: int | None = None,
    timeout: float | None = None,
    retries: int | None = None,
    retry_for: Sequence[type[BaseException]] | None = None,
    no_retry_for: Sequence[type[BaseException]] | None = None,
    task_policy: TaskPolicy | None = None,
    autoscaler: QueueDepthAutoscaler | None = None,
    on_start: Callable[..., Any] | None = None,
    on_exit: Callable[..., Any] | None = None,
    checkpoint_enabled: bool | None = None,
    authorized: bool = True,
    inputs: Any = None,
    outputs: Any = None,
    priority: int = 0,
    callback_url: str = "",
    **others: Any,
) -> FunctionMaker: ...
def function(target: Callable[..., Any] | None = None, /, **given: Any) -> Any:
    """Make a function that runs on the platform: `f(…)`, `.remote`, `.map`, `.spawn`.

    The parameters are those of the signature above; the guide has a page for each kind. Inside a
    container the result is only the function.
    """
    return _make("function", Function, target, given)


@overload
def task_queue(target: Callable[P, Coroutine[Any, Any, R]], /) -> TaskQueue[P, R]: ...
@overload
def task_queue(target: Callable[P, R], /) -> TaskQueue[P, R]: ...
@overload
def task_queue(
    *,
    app: str = "",
    name: str | None = None,
    cpu: Cpu | None = None,
    memory: int | str | tuple[int | str, int | str] | None = None,
    ephemeral_disk: int | str | None = None,
    gpu: str | Sequence[str] = "",
    gpu_count: int | None = None,
    gpu_memory: int | str | None = None,
    image: Image | None = None,
    env: Env | None = None,
    secrets: Sequence[Secret | str] | None = None,
    volumes: Sequence[Volume] | None = None,
    models: Sequence[Model] | Mapping[str, Model] | None = None,
    block_network: bool | None = None,
    allow_list: Sequence[str] | None = None,
    workers: int = 1,
    concurrent_requests: int = 1,
    keep_warm_seconds: float | None = None,
    max_pending_tasks: int | None = None,
    timeout: float | None = None,
    retries: int | None = None,
    retry_for: Sequence[type[BaseException]] | None = None,
    no_retry_for: Sequence[type[BaseException]] | None = None,
    task_policy: TaskPolicy | None = None,
    autoscaler: QueueDepthAutoscaler | None = None,
    on_start: Callable[..., Any] | None = None,
    on_exit: Callable[..., Any] | None = None,
    checkpoint_enabled: bool | None = None,
    authorized: bool = True,
    inputs: Any = None,
    outputs: Any = None,
    priority: int = 0,
    rate_limit: str | float | None = None,
    callback_url: str = "",
    **others: Any,
) -> TaskQueueMaker: ...
def task_queue(target: Callable[..., Any] | None = None, /, **given: Any) -> Any:
    """Make a queue of durable work: `.put(…)`.

    The parameters are those of the signature above; the guide has a page for each kind. Inside a
    container the result is only the function.
    """
    return _make("task_queue", TaskQueue, target, given)


def _make(
    kind: str, cls: Callable[..., Any], target: Callable[..., Any] | None, given: dict[str, Any]
) -> Any:
    known = {name: value for name, value in given.items() if name in HONOURED[kind]}
    others = {name: value for name, value in given.items() if name not in known}

    def decorate(function: Callable[..., Any]) -> Any:
        function = getattr(function, "__glowplug_fn__", function)
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"@{kind} decorates a function, not {function!r}")
        return cls(function, ask(kind, function, **known, others=others))

    if target is not None:
        return decorate(target)
    # Wrong parameters are told where they are written, before the function is seen.
    ask(kind, decorate, **known, others=others)
    return decorate
