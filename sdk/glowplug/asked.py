"""What a decorator was asked for, checked and in the platform's units.

The decorators hand everything the user wrote to `ask`; a mistake raises there, where it was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glowplug.image import Image, parse_env
from glowplug.parameters import refuse_parameters
from glowplug.policies import (
    FOREVER,
    QueueDepthAutoscaler,
    TaskPolicy,
    check_timeout,
    check_whole,
    parse_rate,
)
from glowplug.reach import parse_network
from glowplug.schema import Field, fields_of, fields_of_signature
from glowplug.units import (
    Cpu,
    CpuNeed,
    GpuNeed,
    MemoryNeed,
    parse_cpu_need,
    parse_disk,
    parse_gpu,
    parse_memory,
)

if TYPE_CHECKING:
    from glowplug.model import Model
    from glowplug.secret import Secret
    from glowplug.volume import Volume

_NAME = re.compile(r"^[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?\Z")
PRIORITY_MAX = 10
RETRIES_WHEN_ONLY_NAMED = 3


@dataclass(frozen=True)
class Defaults:
    """What a decorator means when nothing is said."""

    cpu: float
    timeout: float
    keep_warm_seconds: float
    max_pending: int
    max_containers: int


DEFAULTS: dict[str, Defaults] = {
    "endpoint": Defaults(1.0, 180.0, 180.0, 100, 1),
    "function": Defaults(0.125, 3600.0, 10.0, 0, 100),
    "task_queue": Defaults(0.125, 3600.0, 10.0, 0, 1),
    "schedule": Defaults(0.125, 3600.0, 10.0, 0, 1),
    "on_event": Defaults(0.125, 3600.0, 10.0, 0, 1),
}


@dataclass(frozen=True)
class Times:
    """When a schedule is due, as it was written; the platform reads it."""

    when: str
    timezone: str
    catch_up: str


@dataclass(frozen=True)
class Trigger:
    """Which events call a function, and how many at a time.

    `filter` is in the platform's words: {"kind", "attributes", "filters"}; `batch` 0 = one event by itself.
    """

    patterns: tuple[str, ...]
    filter: dict[str, Any] | None = None
    batch: int = 0
    window_s: float = 0.0


@dataclass(frozen=True)
class Retry:
    """When a failed attempt is tried again."""

    max_retries: int = 0
    delay_s: float = 0.0
    backoff: float = 1.0
    max_delay_s: float = 600.0
    retry_for: tuple[str, ...] = ()
    no_retry_for: tuple[str, ...] = ()
    jitter: float = 0.0


@dataclass(frozen=True)
class Asked:
    """One function's description, before its code is packed."""

    kind: str
    name: str
    app: str
    cpu: CpuNeed
    memory: MemoryNeed
    disk_bytes: int
    gpu: GpuNeed
    image: Image
    env: dict[str, str]
    secrets: tuple[Secret, ...]
    volumes: tuple[Volume, ...]
    models: tuple[Model, ...]
    network: dict[str, Any]
    workers: int
    concurrent_requests: int
    keep_warm_s: float
    max_pending: int
    timeout_s: float
    retry: Retry
    expires_s: float
    autoscaler: QueueDepthAutoscaler
    on_start: Callable[..., Any] | None
    on_exit: Callable[..., Any] | None
    sharing: str
    authorized: bool
    inputs: dict[str, Field] | None
    outputs: dict[str, Field] | None
    inputs_given: bool
    priority: int
    keep_result_s: float
    rate: tuple[int, float]
    callback_url: str
    dead_letter_keep_s: float
    schedule: Times | None = None
    trigger: Trigger | None = None
    takes: str = ""


def ask(  # noqa: PLR0913 - the parameters are the public surface
    kind: str,
    function: Callable[..., Any],
    *,
    app: str = "",
    name: str | None = None,
    cpu: Cpu | None = None,
    memory: object = None,
    ephemeral_disk: object = None,
    gpu: object = "",
    gpu_count: int | None = None,
    gpu_memory: object = None,
    image: Image | None = None,
    env: Mapping[str, str] | Sequence[str] | None = None,
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
    inputs: object = None,
    outputs: object = None,
    priority: int = 0,
    rate_limit: str | float | None = None,
    callback_url: str = "",
    others: Mapping[str, Any] | None = None,
) -> Asked:
    """Return what was asked for, in the platform's units.

    Raises: NotYetSupportedError, TypeError or ValueError with a sentence.
    """
    refuse_parameters(kind, others or {})
    defaults = DEFAULTS[kind]
    policy = task_policy or TaskPolicy()
    _expect("task_policy", policy, TaskPolicy)
    scaling = autoscaler or QueueDepthAutoscaler(max_containers=defaults.max_containers)
    _expect("autoscaler", scaling, QueueDepthAutoscaler)
    _expect("image", image or Image(), Image)
    _expect("authorized", authorized, bool)
    for hook, given in (("on_start", on_start), ("on_exit", on_exit)):
        if given is not None and not callable(given):
            raise TypeError(f"{hook}={given!r}: give a function")
    inputs_given = inputs is not None
    return Asked(
        kind=kind,
        name=_checked_name("name", name if name is not None else default_name(function)),
        app=_checked_name("app", app) if app else "",
        cpu=parse_cpu_need(defaults.cpu if cpu is None else cpu),
        memory=parse_memory(memory),
        disk_bytes=parse_disk(ephemeral_disk),
        gpu=parse_gpu(gpu, gpu_count, gpu_memory),
        image=image or Image(),
        env=parse_env("env", env),
        secrets=_secrets(secrets),
        volumes=_volumes(volumes),
        models=_models(models),
        network=parse_network(block_network, allow_list),
        workers=check_whole("workers", workers, 1, 1024),
        concurrent_requests=check_whole("concurrent_requests", concurrent_requests, 1, 10_000),
        keep_warm_s=_keep_warm(defaults.keep_warm_seconds, keep_warm_seconds),
        max_pending=_max_pending(defaults.max_pending, max_pending_tasks),
        timeout_s=_timeout(defaults.timeout, timeout, policy),
        retry=_retry(retries, retry_for, no_retry_for, policy),
        expires_s=policy.ttl or 0.0,
        autoscaler=scaling,
        on_start=getattr(on_start, "__glowplug_fn__", on_start),
        on_exit=getattr(on_exit, "__glowplug_fn__", on_exit),
        sharing=_sharing(checkpoint_enabled),
        authorized=authorized,
        inputs=fields_of(inputs) if inputs_given else fields_of_signature(function),
        outputs=None if outputs is None else fields_of(outputs),
        inputs_given=inputs_given,
        priority=check_whole("priority", priority, -PRIORITY_MAX, PRIORITY_MAX),
        keep_result_s=policy.keep_result_seconds,
        rate=parse_rate(rate_limit),
        callback_url=_callback_url(callback_url),
        dead_letter_keep_s=policy.dead_letter_keep_seconds,
    )


def default_name(function: Callable[..., Any]) -> str:
    """Return the deployment's name for a function that was given none."""
    name = re.sub(r"[^a-zA-Z0-9_-]+", "-", getattr(function, "__name__", "function"))
    return name.strip("-_")[:63].strip("-_") or "function"


def _secrets(given: Sequence[Secret | str] | None) -> tuple[Secret, ...]:
    from glowplug.secret import parse_secrets  # noqa: PLC0415 - it needs check_shared_name of here

    return parse_secrets(given)


def _volumes(given: Sequence[Volume] | None) -> tuple[Volume, ...]:
    from glowplug.volume import parse_volumes  # noqa: PLC0415 - likewise

    return parse_volumes(given)


def _models(given: Sequence[Model] | Mapping[str, Model] | None) -> tuple[Model, ...]:
    if given is None:
        return ()
    from glowplug.model import parse_models  # noqa: PLC0415 - likewise

    return parse_models(given)


def check_shared_name(what: str, name: object) -> str:
    """Return the name of a map, queue, secret or volume. Raises: ValueError with a sentence."""
    return _checked_name(what, name)


def _checked_name(what: str, value: object) -> str:
    if not isinstance(value, str) or not _NAME.match(value):
        raise ValueError(
            f"{what}={value!r}: use 1 to 63 letters, digits, '-' or '_', starting and ending with "
            "a letter or digit"
        )
    return value


def _sharing(checkpoint_enabled: bool | None) -> str:  # noqa: FBT001 - as it was given
    """Return what containers may have from a template: nothing is said, it is allowed, it is forbidden."""
    if checkpoint_enabled is None:
        return ""
    _expect("checkpoint_enabled", checkpoint_enabled, bool)
    return "on_start" if checkpoint_enabled else "nothing"


def _keep_warm(default: float, value: object) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"keep_warm_seconds={value!r}: give seconds, or -1 for ever")
    if value != FOREVER and value < 0:
        raise ValueError(f"keep_warm_seconds={value!r}: give seconds, or -1 for ever")
    return float(value)


def _max_pending(default: int, value: object) -> int:
    if value is None:
        return default
    return check_whole("max_pending_tasks", value, 1, 10_000_000)


def _timeout(default: float, value: object, policy: TaskPolicy) -> float:
    if value is not None and policy.timeout is not None and value != policy.timeout:
        raise ValueError("timeout= and task_policy.timeout differ; give one of them")
    chosen = value if value is not None else policy.timeout
    return default if chosen is None else check_timeout("timeout", chosen)


def _retry(
    retries: object,
    retry_for: Sequence[type[BaseException]] | None,
    no_retry_for: Sequence[type[BaseException]] | None,
    policy: TaskPolicy,
) -> Retry:
    names = _class_names("retry_for", retry_for)
    if retries is not None:
        check_whole("retries", retries, 0, 1000)
        if policy.max_retries is not None and policy.max_retries != retries:
            raise ValueError("retries= and task_policy.max_retries differ; give one of them")
    chosen = retries if isinstance(retries, int) else policy.max_retries
    if chosen is None:
        chosen = RETRIES_WHEN_ONLY_NAMED if names else 0
    return Retry(
        max_retries=chosen,
        delay_s=policy.retry_delay_seconds,
        backoff=policy.backoff,
        max_delay_s=policy.max_delay_seconds,
        retry_for=names,
        no_retry_for=_class_names("no_retry_for", no_retry_for),
        jitter=policy.jitter,
    )


def _callback_url(value: object) -> str:
    if value in (None, ""):
        return ""
    if not isinstance(value, str) or not value.startswith(("https://", "http://")):
        raise ValueError(f"callback_url={value!r}: give a URL that begins with https://")
    return value


def _class_names(what: str, classes: Sequence[type[BaseException]] | None) -> tuple[str, ...]:
    for cls in classes or ():
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise TypeError(f"{what}: {cls!r} is no exception class")
    return tuple(cls.__name__ for cls in classes or ())


def _expect(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name}={value!r}: give a {kind.__name__}")
