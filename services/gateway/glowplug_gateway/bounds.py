"""How large, long and many what a spec says may be. Pure.

Every number that a spec holds is bounded here: what is placed, waited for, kept or counted by it is other
workspaces' concern, too. What is beyond is refused when it is said, never when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from glowplug_contracts.messages.deployment import DeploymentSpec, ImageSpec, Resources
from glowplug_contracts.messages.sandbox import SandboxSpec

from glowplug_gateway.put_options import KEEP_S_MAX, LATER_S_MAX, URL_CHARS_MAX

WORKERS_MAX: Final = 64
CONCURRENCY_MAX: Final = 1_000
CONTAINERS_MAX: Final = 10_000
PENDING_MAX: Final = 1_000_000
PRIORITY_MAX: Final = 10
RETRIES_MAX: Final = 1_000
PAUSE_S_MAX: Final = 86_400
BACKOFF_MAX: Final = 100
RATE_MAX: Final = 1_000_000_000
PERIOD_S_MIN: Final = 0.001
CPU_MILLIS_MAX: Final = 1_000_000
MEMORY_BYTES_MAX: Final = 1 << 46
DISK_BYTES_MAX: Final = 1 << 42
GPUS_MAX: Final = 64
GPU_BYTES_MAX: Final = 1 << 50
GPU_KINDS_MAX: Final = 32
STEPS_MAX: Final = 200
EXCEPTIONS_MAX: Final = 100
# Variables, each as long as the kernel lets a program have one, and all of them as it lets it have all.
ENV_MAX: Final = 1_000
ENV_BYTES_MAX: Final = 1024 * 1024
VARIABLE_BYTES_MAX: Final = 100 * 1024
HANDLER_CHARS_MAX: Final = 1_024
REFERENCE_CHARS_MAX: Final = 512
VERSION_CHARS_MAX: Final = 16
SHARED: Final = ("", "on_start", "nothing")
# Says "for ever" where it may.
FOREVER: Final = -1.0

# Field → what it is, the least and the most that it may be.
Bounds = dict[str, tuple[float, float, float]]


def beyond(bounds: Bounds) -> dict[str, str]:
    """Return what is out of its bounds, by field."""
    return {
        field: f"is {value:g}; it must be from {lowest:g} to {highest:g}"
        for field, (value, lowest, highest) in bounds.items()
        if not lowest <= value <= highest
    }


def check_deployment(spec: DeploymentSpec) -> dict[str, str]:
    """Return what of a deployment's numbers and texts is out of bounds, by field."""
    scale, retry = spec.autoscaler, spec.retry
    wrong = beyond(
        {
            "workers": (spec.workers, 1, WORKERS_MAX),
            "concurrent_requests": (spec.concurrent_requests, 1, CONCURRENCY_MAX),
            "max_pending": (spec.max_pending, 0, PENDING_MAX),
            "priority": (spec.priority, -PRIORITY_MAX, PRIORITY_MAX),
            "timeout_s": (spec.timeout_s, FOREVER, LATER_S_MAX),
            "expires_s": (spec.expires_s, 0, LATER_S_MAX),
            "keep_result_s": (spec.keep_result_s, 0, KEEP_S_MAX),
            "dead_letter_keep_s": (spec.dead_letter_keep_s, 0, KEEP_S_MAX),
            "rate.count": (spec.rate.count, 0, RATE_MAX),
            "rate.period_s": (spec.rate.period_s, PERIOD_S_MIN, LATER_S_MAX),
            "autoscaler.max_containers": (scale.max_containers, 1, CONTAINERS_MAX),
            "autoscaler.min_containers": (scale.min_containers, 0, scale.max_containers),
            "autoscaler.buffer_containers": (scale.buffer_containers, 0, scale.max_containers - 1),
            "autoscaler.tasks_per_container": (scale.tasks_per_container, 1, PENDING_MAX),
            "autoscaler.keep_warm_s": (scale.keep_warm_s, FOREVER, LATER_S_MAX),
            "retry.max_retries": (retry.max_retries, 0, RETRIES_MAX),
            "retry.delay_s": (retry.delay_s, 0, PAUSE_S_MAX),
            "retry.max_delay_s": (retry.max_delay_s, 0, LATER_S_MAX),
            "retry.backoff": (retry.backoff, 1, BACKOFF_MAX),
            "retry.jitter": (retry.jitter, 0, 1),
            "retry.retry_for": (len(retry.retry_for), 0, EXCEPTIONS_MAX),
            "retry.no_retry_for": (len(retry.no_retry_for), 0, EXCEPTIONS_MAX),
            "env": (len(spec.env) + len(spec.image.env), 0, ENV_MAX),
            "source.handler": (len(spec.source.handler), 0, HANDLER_CHARS_MAX),
            "source.on_start": (len(spec.source.on_start), 0, HANDLER_CHARS_MAX),
            "source.on_exit": (len(spec.source.on_exit), 0, HANDLER_CHARS_MAX),
            "python_version": (len(spec.python_version), 0, VERSION_CHARS_MAX),
            "callback_url": (len(spec.callback_url), 0, URL_CHARS_MAX),
        }
    )
    if spec.source.sharing not in SHARED:
        wrong["source.sharing"] = f"must be one of {', '.join(map(repr, SHARED))}"
    return wrong | check_resources(spec.resources) | check_image(spec.image) | check_env(spec.env)


def check_sandbox(spec: SandboxSpec) -> dict[str, str]:
    """Return what of a sandbox's numbers and texts is out of bounds, by field."""
    wrong = beyond(
        {
            "ttl_s": (spec.ttl_s, FOREVER, LATER_S_MAX),
            "env": (len(spec.env) + len(spec.image.env), 0, ENV_MAX),
        }
    )
    return wrong | check_resources(spec.resources) | check_image(spec.image) | check_env(spec.env)


def check_resources(resources: Resources) -> dict[str, str]:
    """Return what of the resources is out of bounds. A request below nothing would be room for others."""
    return beyond(
        {
            "resources.cpu_millis": (resources.cpu_millis, 1, CPU_MILLIS_MAX),
            "resources.cpu_limit_millis": (resources.cpu_limit_millis, 0, CPU_MILLIS_MAX),
            "resources.memory_bytes": (resources.memory_bytes, 0, MEMORY_BYTES_MAX),
            "resources.memory_limit_bytes": (resources.memory_limit_bytes, 0, MEMORY_BYTES_MAX),
            "resources.disk_bytes": (resources.disk_bytes, 0, DISK_BYTES_MAX),
            "resources.gpus": (len(resources.gpus), 0, GPU_KINDS_MAX),
            "resources.gpu_count": (resources.gpu_count, 0, GPUS_MAX),
            "resources.gpu_memory_bytes": (resources.gpu_memory_bytes, 0, GPU_BYTES_MAX),
        }
    )


def check_image(image: ImageSpec) -> dict[str, str]:
    """Return what of an image's spec is out of bounds; what its steps hold, the builder checks."""
    wrong = beyond(
        {
            "image.steps": (len(image.steps), 0, STEPS_MAX),
            "image.python_version": (len(image.python_version), 0, VERSION_CHARS_MAX),
            "image.base": (len(image.base), 1, REFERENCE_CHARS_MAX),
        }
    )
    if image.credentials and image.on_host:
        wrong["image.credentials"] = "are for an image of a registry; leave them out"
    return wrong | check_env(image.env, "image.env")


def check_env(env: Mapping[str, str], field: str = "env") -> dict[str, str]:
    """Return what no program's environment may hold, so that no container fails to start for it."""
    wrong = {}
    total = 0
    for name, value in env.items():
        size = len(name.encode("utf-8", "replace")) + len(value.encode("utf-8", "replace"))
        total += size
        if not name or "=" in name or "\0" in name or "\0" in value:
            wrong[field] = f"{name[:80]!r} is no variable: '=' and zero bytes can't be in one"
        elif size > VARIABLE_BYTES_MAX:
            wrong[field] = (
                f"{name[:80]!r} has {size} bytes; a variable may have {VARIABLE_BYTES_MAX}"
            )
    if total > ENV_BYTES_MAX:
        wrong[field] = f"has {total} bytes; the variables together may have {ENV_BYTES_MAX}"
    return wrong
