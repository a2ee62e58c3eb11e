"""The one table of what is honoured now, and what is refused as "not yet".

A name or parameter of Glowplug's public surface is honoured or refused with a sentence that says what
to do instead; nothing is ever ignored. The decorators' signatures list what is honoured; everything
else that a caller writes arrives here. A test walks the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from glowplug.errors import NotYetSupportedError

COMMON: frozenset[str] = frozenset(
    {
        "app",
        "name",
        "cpu",
        "memory",
        "gpu",
        "gpu_count",
        "gpu_memory",
        "ephemeral_disk",
        "image",
        "workers",
        "concurrent_requests",
        "keep_warm_seconds",
        "max_pending_tasks",
        "timeout",
        "retries",
        "retry_for",
        "no_retry_for",
        "task_policy",
        "autoscaler",
        "on_start",
        "on_exit",
        "checkpoint_enabled",
        "env",
        "secrets",
        "volumes",
        "models",
        "block_network",
        "allow_list",
        "authorized",
        "inputs",
        "outputs",
        "priority",
    }
)

# What each caller takes now.
HONOURED: dict[str, frozenset[str]] = {
    "endpoint": COMMON,
    "function": COMMON | {"callback_url"},
    "task_queue": COMMON | {"rate_limit", "callback_url"},
    "schedule": (COMMON - {"inputs"}) | {"when", "timezone", "catch_up"},
    "on_event": (COMMON - {"inputs", "outputs", "authorized", "max_pending_tasks"})
    | {"filter", "batch", "window", "rate_limit", "callback_url"},
    "Sandbox": frozenset(
        {
            "image",
            "cpu",
            "memory",
            "gpu",
            "gpu_count",
            "gpu_memory",
            "ephemeral_disk",
            "env",
            "keep_warm_seconds",
            "block_network",
            "allow_list",
            "secrets",
            "volumes",
            "models",
        }
    ),
    "Image": frozenset(
        {
            "python_version",
            "python_packages",
            "system_packages",
            "commands",
            "env_vars",
            "base_image",
            "force_build",
            "secrets",
        }
    ),
    "QueueDepthAutoscaler": frozenset(
        {"max_containers", "tasks_per_container", "min_containers", "buffer_containers"}
    ),
    "TaskPolicy": frozenset(
        {
            "max_retries",
            "timeout",
            "ttl",
            "retry_delay_seconds",
            "backoff",
            "max_delay_seconds",
            "jitter",
            "keep_result_seconds",
            "dead_letter_keep_seconds",
        }
    ),
}

_DECORATORS_LATER: dict[str, str] = {
    "pool": "leave it out: there is one pool",
    "region": "leave it out: there is one region",
}

_OF_QUEUES: dict[str, str] = {"rate_limit": "limit a @task_queue or an @on_event"}

# What each refuses for now, and what to do instead.
NOT_YET: dict[str, dict[str, str]] = {
    "endpoint": _DECORATORS_LATER
    | _OF_QUEUES
    | {"callback_url": "answer the caller, or put work into a @task_queue that has one"},
    "function": _DECORATORS_LATER | _OF_QUEUES,
    "task_queue": _DECORATORS_LATER,
    "schedule": _DECORATORS_LATER
    | _OF_QUEUES
    | {"inputs": "leave it out: a schedule's function is called without arguments"},
    "on_event": _DECORATORS_LATER
    | {
        "inputs": "leave it out: the function gets the event",
        "outputs": "leave it out: nobody waits for the result",
        "authorized": "leave it out: sending an event takes a token",
        "max_pending_tasks": "leave it out: events are kept however many there are",
    },
    "Sandbox": {
        "app": "leave it out: sandboxes are named by their id",
        "name": "leave it out: sandboxes are named by their id",
        "ports": "talk to the sandbox through run_code and exec",
    },
    "Image": {},
    "QueueDepthAutoscaler": {},
    "TaskPolicy": {},
}

# Names of the surface that stand, and only say that they come later.
NAMES_NOT_YET: dict[str, str] = {
    "asgi": "use @endpoint for one handler",
    "wsgi": "use @endpoint for one handler",
    "web_server": "use @endpoint for one handler",
    "realtime": "use a generator under @endpoint, which streams",
    "hourly": 'use @schedule("@hourly")',
    "cls": "use @function with on_start",
    "enter": "use on_start",
    "exit": "clean up at the end of the function",
    "method": "use @function",
    "parameter": "pass arguments",
    "batched": "map over lists",
    "Pod": "use @endpoint, or a Sandbox",
    "CloudBucket": "read the bucket from the function",
    "Client": "use the decorated functions, the HTTP API or the command line",
    "LatencyAutoscaler": "use QueueDepthAutoscaler",
    "PredictiveAutoscaler": "use QueueDepthAutoscaler",
}

# Methods of the surface that say the same.
METHODS_NOT_YET: dict[str, dict[str, str]] = {
    "function": {
        "serve": "run the program, or deploy it again after a change",
    },
    "endpoint": {"serve": "run the program, or deploy it again after a change"},
    "task_queue": {"serve": "run the program, or deploy it again after a change"},
    "schedule": {"serve": "run the program, or deploy it again after a change"},
    "on_event": {"serve": "deploy it again after a change"},
    "Image": {
        "micromamba": "use pip_install, or from_dockerfile with a Dockerfile that begins FROM an image that has it",
    },
    "Sandbox": {
        "wait": "read status() until it has ended",
        "update_ttl": "give keep_warm_seconds when you create it",
        "expose_port": "talk to the sandbox through run_code and exec",
        "list_urls": "talk to the sandbox through run_code and exec",
        "snapshot": "create the sandbox again",
        "fork": "create another sandbox",
        "fs": "read and write files with run_code",
    },
    "Task": {},
    "process": {
        "list_processes": "keep what exec returns",
        "get_process": "keep what exec returns",
    },
}


def refuse_parameters(caller: str, given: Mapping[str, object]) -> None:
    """Refuse what a caller does not take (yet).

    Raises: NotYetSupportedError for what a later release takes; TypeError, with the nearest name, for
        what nobody knows.
    """
    later = NOT_YET[caller]
    for name in given:
        if name in later:
            raise NotYetSupportedError(
                f"{caller}({name}=…) is not yet supported; {later[name]}",
                details={"parameter": name},
            )
        raise TypeError(f"{caller}() takes no {name!r}{_nearest(name, HONOURED[caller])}")


def refuse_method(owner: str, name: str) -> NoReturn:
    """Refuse an attribute that the public surface has and this release does not.

    Raises: NotYetSupportedError, or AttributeError for what nobody knows.
    """
    later = METHODS_NOT_YET.get(owner, {})
    if name in later:
        raise NotYetSupportedError(f"{owner}.{name} is not yet supported; {later[name]}")
    raise AttributeError(f"{owner} has no {name!r}")


class NotYet:
    """Stands for a name of the surface that comes later, and says so when it is used.

    It can be imported, so that a program which only names it still loads.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        raise self._error()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._error()

    def __mro_entries__(self, _: object) -> NoReturn:
        raise self._error()

    def __repr__(self) -> str:
        return f"<glowplug.{self._name}: not yet supported>"

    def _error(self) -> NotYetSupportedError:
        return NotYetSupportedError(
            f"glowplug.{self._name} is not yet supported; {NAMES_NOT_YET[self._name]}"
        )


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest of the known names, or nothing."""
    return _nearest(name, known)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
