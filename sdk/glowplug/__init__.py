"""Decorate a Python function; run it on your own machines, scaled from zero and back.

Importing this loads the standard library only, here and in every container; what needs the network is
loaded when it is first used.
"""

from __future__ import annotations

from glowplug import errors, schema
from glowplug.decorators import endpoint, function, task_queue
from glowplug.errors import GlowplugError
from glowplug.image import Image
from glowplug.parameters import NAMES_NOT_YET, NotYet
from glowplug.policies import QueueDepthAutoscaler, TaskPolicy
from glowplug.remote import is_remote
from glowplug.sandbox import Sandbox
from glowplug.tasks import FunctionCall, Task

__version__ = "0.1.0"
__all__ = [
    "FunctionCall",
    "GlowplugError",
    "Image",
    "QueueDepthAutoscaler",
    "Sandbox",
    "Task",
    "TaskPolicy",
    "endpoint",
    "errors",
    "function",
    "is_remote",
    "schema",
    "task_queue",
]

TYPE_CHECKING = False
if not TYPE_CHECKING:  # a type checker is to say that these names are not there yet

    def __getattr__(name: str) -> NotYet:
        if name in NAMES_NOT_YET:
            return NotYet(name)
        raise AttributeError(f"module 'glowplug' has no attribute {name!r}")
