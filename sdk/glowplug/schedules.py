"""`@schedule`: a function that the platform runs when it is due."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from glowplug.asked import Asked, Times, ask
from glowplug.image import Image
from glowplug.model import Model
from glowplug.parameters import HONOURED
from glowplug.policies import QueueDepthAutoscaler, TaskPolicy
from glowplug.remote import is_remote
from glowplug.secret import Secret
from glowplug.units import Cpu
from glowplug.volume import Volume
from glowplug.wrappers import Remote, Spawn, Wrapper

if TYPE_CHECKING:
    from glowplug.tasks import FunctionCall

P = ParamSpec("P")
R = TypeVar("R")
Env = Mapping[str, str] | Sequence[str]

POLICIES = ("skip", "one", "all")
FIELDS_OF_CRON = (5, 6)


class Schedule(Wrapper[P, R]):
    """A function made by `@schedule`: runs when it is due, once it is deployed."""

    kind = "schedule"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it on the platform now and return its result; inside a container, run it right here."""
        if is_remote():
            result: R = self.__glowplug_fn__(*args, **kwargs)
            return result
        return self.remote(*args, **kwargs)

    @property
    def remote(self) -> Remote[P, R]:
        """Run it on the platform now and wait for its result; nothing is scheduled by this."""
        return Remote(self)

    @property
    def spawn(self) -> Spawn[P, FunctionCall]:
        """Have it run durably, now; returns a FunctionCall at once. Nothing is scheduled by this."""
        from glowplug.tasks import FunctionCall  # noqa: PLC0415 - only for durable work

        return Spawn(self, FunctionCall, wait_when_full=False)


class ScheduleMaker(Protocol):
    """`@schedule(...)`: makes a Schedule of a function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Schedule[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Schedule[P, R]: ...


@overload
def schedule(
    when: str,
    *,
    timezone: str = "UTC",
    catch_up: str = "skip",
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
    task_policy: TaskPolicy | None = None,
    autoscaler: QueueDepthAutoscaler | None = None,
    on_start: Callable[..., Any] | None = None,
    on_exit: Callable[..., Any] | None = None,
    checkpoint_enabled: bool | None = None,
    authorized: bool = True,
    outputs: Any = None,
    priority: int = 0,
    **others: Any,
) -> ScheduleMaker: ...
@overload
def schedule(**given: Any) -> ScheduleMaker: ...
def schedule(*positional: Any, **given: Any) -> Any:
    """Make a function that runs when it is due: each due time once, however many replicas there are.

    Args:
        when: five or six fields of cron, "@hourly", "@daily" and the like, or "every 30s".
        timezone: IANA name, for cron; "every" counts from the epoch.
        catch_up: for due times that nobody could fire in time: "skip" them, fire the latest "one", or "all".

    The other parameters are those of `@task_queue`. The function is called without arguments; one named
    `context` tells the due time as `context.scheduled_for`.
    """
    if len(positional) > 1 or (positional and "when" in given):
        raise TypeError('@schedule takes one time: @schedule("every 30s")')
    if positional:
        given["when"] = positional[0]
    times = _times(
        given.pop("when", None), given.pop("timezone", "UTC"), given.pop("catch_up", "skip")
    )
    known = {name: value for name, value in given.items() if name in HONOURED["schedule"]}
    others = {name: value for name, value in given.items() if name not in known}

    def decorate(function: Callable[..., Any]) -> Schedule[Any, Any]:
        function = getattr(function, "__glowplug_fn__", function)
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"@schedule decorates a function, not {function!r}")
        _check_function(function)
        asked = ask("schedule", function, **known, others=others)
        return Schedule(function, with_times(asked, times))

    # Wrong parameters are told where they are written, before the function is seen.
    ask("schedule", decorate, **known, others=others)
    return decorate


def with_times(asked: Asked, times: Times) -> Asked:
    """Return what was asked for with its times; nobody gives it arguments."""
    return dataclasses.replace(asked, schedule=times, inputs=None)


def _times(when: object, timezone: object, catch_up: object) -> Times:
    if not isinstance(when, str):
        raise TypeError(
            '@schedule needs a time: @schedule("every 30s"), @schedule("0 9 * * MON-FRI")'
        )
    words = when.split()
    shaped = when.strip().startswith("@") or words[:1] == ["every"] or len(words) in FIELDS_OF_CRON
    if not shaped:
        raise ValueError(
            f"when={when!r}: give five or six fields of cron, @hourly and the like, or 'every 30s'"
        )
    if not isinstance(timezone, str) or not timezone:
        raise TypeError(f"timezone={timezone!r}: give an IANA name like 'Europe/Berlin'")
    if catch_up not in POLICIES:
        raise ValueError(f"catch_up={catch_up!r}: give one of {', '.join(POLICIES)}")
    return Times(when.strip(), timezone, str(catch_up))


def _check_function(function: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("@schedule: a generator has nobody to give its items to; return a list")
    for parameter in inspect.signature(function).parameters.values():
        optional = parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        if parameter.default is parameter.empty and not optional and parameter.name != "context":
            raise TypeError(
                f"@schedule calls the function without arguments: give {parameter.name!r} a default "
                "(or name it `context`)"
            )
