"""A function's description as plain JSON: what `DeploymentSpec` of the contracts reads.

Written once for programs outside and for code in containers, where only the standard library is.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from glowplug.asked import Asked
    from glowplug.schema import Field


def describe_asked(
    asked: Asked, *, source: dict[str, Any], image: dict[str, Any], is_generator: bool
) -> dict[str, Any]:
    """Return the description of one version; `source` and `image` say what was uploaded."""
    return {
        "name": asked.name,
        "kind": asked.kind,
        "source": source,
        "app": asked.app,
        "image": image,
        "resources": {
            "cpu_millis": asked.cpu.request_millis,
            "cpu_limit_millis": asked.cpu.limit_millis,
            "disk_bytes": asked.disk_bytes,
            "memory_bytes": asked.memory.request_bytes,
            "memory_limit_bytes": asked.memory.limit_bytes,
            "gpus": list(asked.gpu.kinds),
            "gpu_count": asked.gpu.count,
            "gpu_memory_bytes": asked.gpu.memory_bytes,
        },
        "autoscaler": {
            "min_containers": asked.autoscaler.min_containers,
            "max_containers": asked.autoscaler.max_containers,
            "buffer_containers": asked.autoscaler.buffer_containers,
            "tasks_per_container": asked.autoscaler.tasks_per_container,
            "keep_warm_s": asked.keep_warm_s,
        },
        "env": dict(asked.env),
        "secrets": [
            {"name": one.name, "required_keys": list(one.required_keys)} for one in asked.secrets
        ],
        "volumes": [
            {"name": one.name, "path": one.mount_path, "read_only": one.read_only}
            for one in asked.volumes
        ],
        "models": [
            {"name": one.name, "path": one.mount_path, "version": one.version}
            for one in asked.models
        ],
        "network": asked.network,
        "workers": asked.workers,
        "concurrent_requests": asked.concurrent_requests,
        "timeout_s": asked.timeout_s,
        "retry": {
            "max_retries": asked.retry.max_retries,
            "delay_s": asked.retry.delay_s,
            "backoff": asked.retry.backoff,
            "max_delay_s": asked.retry.max_delay_s,
            "retry_for": list(asked.retry.retry_for),
            "no_retry_for": list(asked.retry.no_retry_for),
            "jitter": asked.retry.jitter,
        },
        "keep_result_s": asked.keep_result_s,
        "dead_letter_keep_s": asked.dead_letter_keep_s,
        "callback_url": asked.callback_url,
        "rate": {"count": asked.rate[0], "period_s": asked.rate[1]},
        "max_pending": asked.max_pending,
        "expires_s": asked.expires_s,
        "authorized": asked.authorized,
        "inputs": _specs(asked.inputs),
        "outputs": _specs(asked.outputs),
        "python_version": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "is_generator": is_generator,
        "priority": asked.priority,
        "schedule": None if asked.schedule is None else dataclasses.asdict(asked.schedule),
        "trigger": None if asked.trigger is None else vars(asked.trigger),
        "takes": asked.takes,
    }


def _specs(fields: Mapping[str, Field] | None) -> dict[str, Any] | None:
    return None if fields is None else {name: field.spec() for name, field in fields.items()}
