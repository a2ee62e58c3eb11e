"""Decorate a Python function; run it on your own machines, scaled from zero and back.

Importing this costs next to nothing, here and in every container: each name is loaded when it is first
used, from the standard library only; what needs the network comes later still.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = [
    "BatchFailedError",
    "DeadLetters",
    "Event",
    "FunctionCall",
    "GlowplugError",
    "Image",
    "Map",
    "Model",
    "Output",
    "Queue",
    "QueueDepthAutoscaler",
    "Sandbox",
    "Secret",
    "Task",
    "TaskPolicy",
    "Volume",
    "chain",
    "chord",
    "endpoint",
    "errors",
    "function",
    "group",
    "is_remote",
    "on_event",
    "schedule",
    "schema",
    "send_event",
    "task_queue",
    "verify_callback",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from glowplug import errors, schema
    from glowplug.callbacks import verify_callback
    from glowplug.composing import chain, chord, group
    from glowplug.dead_letters import DeadLetters
    from glowplug.decorators import endpoint, function, task_queue
    from glowplug.errors import GlowplugError
    from glowplug.events import BatchFailedError, Event, send_event
    from glowplug.image import Image
    from glowplug.maps import Map
    from glowplug.model import Model
    from glowplug.output import Output
    from glowplug.policies import QueueDepthAutoscaler, TaskPolicy
    from glowplug.queues import Queue
    from glowplug.remote import is_remote
    from glowplug.sandbox import Sandbox
    from glowplug.schedules import schedule
    from glowplug.secret import Secret
    from glowplug.tasks import FunctionCall, Task
    from glowplug.triggers import on_event
    from glowplug.volume import Volume
else:
    # No submodule may be called like one of these names, but for the two that are meant: importing a
    # submodule binds its name here.
    _HOMES = {
        "BatchFailedError": "events",
        "Event": "events",
        "DeadLetters": "dead_letters",
        "FunctionCall": "tasks",
        "GlowplugError": "errors",
        "Image": "image",
        "Map": "maps",
        "Model": "model",
        "Output": "output",
        "Queue": "queues",
        "QueueDepthAutoscaler": "policies",
        "Sandbox": "sandbox",
        "Secret": "secret",
        "Task": "tasks",
        "TaskPolicy": "policies",
        "Volume": "volume",
        "chain": "composing",
        "chord": "composing",
        "group": "composing",
        "endpoint": "decorators",
        "errors": "",
        "function": "decorators",
        "is_remote": "remote",
        "schedule": "schedules",
        "on_event": "triggers",
        "schema": "",
        "send_event": "events",
        "task_queue": "decorators",
        "verify_callback": "callbacks",
    }

    _DECORATORS = ("decorators", "schedules", "triggers")

    def __getattr__(name: str) -> object:
        if name in _HOMES:
            found = _find(name)
            globals()[name] = found
            return found
        from glowplug.parameters import NAMES_NOT_YET, NotYet  # noqa: PLC0415

        if name in NAMES_NOT_YET:
            return NotYet(name)
        raise AttributeError(f"module 'glowplug' has no attribute {name!r}")

    def _find(name: str) -> object:
        import sys  # noqa: PLC0415 - the names above are the package's

        from glowplug.remote import is_remote  # noqa: PLC0415 - likewise

        home = f"glowplug.{_HOMES[name] or name}"
        if _HOMES[name] in _DECORATORS and is_remote():
            home = "glowplug.inside.decorated"
            __import__(home)
            return sys.modules[home].decorator(name)
        __import__(home)
        module = sys.modules[home]
        return getattr(module, name) if _HOMES[name] else module

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
