"""`@on_event`: a function that the platform calls with the events it wants.

Patterns, filter, batch and window are checked where they are written, as far as that can be told here; the
grammar of patterns is the platform's (docs/guide/events.md) and is checked when the function is deployed.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from glowplug.asked import Trigger, ask
from glowplug.image import Image
from glowplug.parameters import HONOURED
from glowplug.policies import QueueDepthAutoscaler, TaskPolicy, check_whole
from glowplug.remote import is_remote
from glowplug.wrappers import Wrapper

P = ParamSpec("P")
R = TypeVar("R")
Env = Mapping[str, str] | Sequence[str]

BATCH_MAX = 1_000
WINDOW_S_MAX = 3_600.0
_OF_ATTRIBUTES = ("exact", "prefix", "suffix")
_OF_FILTERS = ("all", "any")


class OnEvent(Wrapper[P, R]):
    """A function made by `@on_event`: called with events, once it is deployed."""

    kind = "on_event"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Inside a container, run it right here; elsewhere an event or `local` is meant."""
        if is_remote():
            result: R = self.__glowplug_fn__(*args, **kwargs)
            return result
        raise TypeError(
            f"{self.name} is called by events: send_event(…) sends one, {self.name}.local(event) runs "
            "it here"
        )


class OnEventMaker(Protocol):
    """`@on_event(...)`: makes an OnEvent of a function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> OnEvent[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> OnEvent[P, R]: ...


@overload
def on_event(
    type_or_subject: str | Sequence[str],
    /,
    *,
    filter: object = None,
    batch: int | None = None,
    window: float | None = None,
    app: str = "",
    name: str | None = None,
    cpu: float | str | None = None,
    memory: int | str | tuple[int | str, int | str] | None = None,
    gpu: str | Sequence[str] = "",
    gpu_count: int | None = None,
    gpu_memory: int | str | None = None,
    image: Image | None = None,
    env: Env | None = None,
    block_network: bool | None = None,
    allow_list: Sequence[str] | None = None,
    workers: int = 1,
    concurrent_requests: int = 1,
    keep_warm_seconds: float | None = None,
    timeout: float | None = None,
    retries: int | None = None,
    retry_for: Sequence[type[BaseException]] | None = None,
    no_retry_for: Sequence[type[BaseException]] | None = None,
    task_policy: TaskPolicy | None = None,
    autoscaler: QueueDepthAutoscaler | None = None,
    on_start: Callable[..., Any] | None = None,
    on_exit: Callable[..., Any] | None = None,
    checkpoint_enabled: bool | None = None,
    priority: int = 0,
    rate_limit: str | float | None = None,
    callback_url: str = "",
    **others: Any,
) -> OnEventMaker: ...
@overload
def on_event(type_or_subject: object, /, **given: Any) -> OnEventMaker: ...
def on_event(type_or_subject: object, /, **given: Any) -> Any:
    """Make a function that is called with the events it wants: each once, kept until it has worked.

    Args:
        type_or_subject: a glob over the event's type, after "subject:" over its subject, or several;
            one of them must match.
        filter: must match too: {"exact": {…}}, {"prefix": {…}}, {"suffix": {…}}, {"all": […]},
            {"any": […]} or {"not": …}.
        batch: the function takes a list of up to so many events.
        window: seconds that the first event of a batch waits for others.

    The other parameters are those of `@task_queue`. The function gets a `glowplug.Event` (or the list).
    """
    trigger = trigger_of(
        type_or_subject,
        given.pop("filter", None),
        given.pop("batch", None),
        given.pop("window", None),
    )
    known = {name: value for name, value in given.items() if name in HONOURED["on_event"]}
    others = {name: value for name, value in given.items() if name not in known}

    def decorate(function: Callable[..., Any]) -> OnEvent[Any, Any]:
        function = getattr(function, "__glowplug_fn__", function)
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"@on_event decorates a function, not {function!r}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("@on_event: a generator has nobody to give its items to; return a list")
        asked = ask("on_event", function, **known, others=others)
        return OnEvent(function, dataclasses.replace(asked, trigger=trigger, inputs=None))

    # Wrong parameters are told where they are written, before the function is seen.
    ask("on_event", decorate, **known, others=others)
    return decorate


def trigger_of(patterns: object, filter: object, batch: object, window: object) -> Trigger:  # noqa: A002 - the parameter's public name
    """Return what was asked for.

    Raises: TypeError or ValueError with a sentence.
    """
    if callable(patterns):
        raise TypeError('say which events: @on_event("com.example.order.*")')
    given = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(given, Sequence) or not given:
        raise TypeError(f"@on_event({patterns!r}): give a pattern, or a list of patterns")
    for one in given:
        if not isinstance(one, str) or not one:
            raise TypeError(f"@on_event: {one!r} is no pattern; give a text like 'com.example.*'")
    if batch is not None:
        check_whole("batch", batch, 1, BATCH_MAX)
    return Trigger(
        patterns=tuple(given),
        filter=None if filter is None else _filter(filter),
        batch=int(batch or 0),  # type: ignore[call-overload]
        window_s=_window(window, batch),
    )


def _window(window: object, batch: object) -> float:
    if window is None:
        return 0.0
    if isinstance(window, bool) or not isinstance(window, int | float):
        raise TypeError(f"window={window!r}: give seconds")
    if not 0 < window <= WINDOW_S_MAX:
        raise ValueError(f"window={window!r}: give seconds above 0, at most {WINDOW_S_MAX:g}")
    if batch is None:
        raise ValueError("window= needs batch=: say how many events one call takes at most")
    return float(window)


def _filter(given: object) -> dict[str, Any]:
    if isinstance(given, list | tuple):
        return {"kind": "all", "filters": [_filter(one) for one in given]}
    if not isinstance(given, Mapping) or len(given) != 1:
        raise TypeError(
            f"filter={given!r}: give one of exact, prefix, suffix, all, any, not, for instance "
            '{"prefix": {"subject": "invoices/"}}'
        )
    kind, inner = next(iter(given.items()))
    if kind in _OF_ATTRIBUTES:
        if not isinstance(inner, Mapping) or not inner:
            raise TypeError(f"filter {kind!r}: give attributes with their values")
        for name, value in inner.items():
            if not isinstance(name, str) or not isinstance(value, str) or not value:
                raise TypeError(f"filter {kind!r}: {name!r}: {value!r} is no attribute with a text")
        return {"kind": kind, "attributes": dict(inner)}
    if kind in _OF_FILTERS:
        if not isinstance(inner, list | tuple) or not inner:
            raise TypeError(f"filter {kind!r}: give a list of filters")
        return {"kind": kind, "filters": [_filter(one) for one in inner]}
    if kind == "not":
        return {"kind": kind, "filters": [_filter(inner)]}
    raise ValueError(f"filter {kind!r}: there are exact, prefix, suffix, all, any and not")
