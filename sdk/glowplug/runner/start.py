"""Says hello to the worker, takes the first frame, and enters the mode that it names."""

from __future__ import annotations

import os
import sys

from glowplug.runner import frames
from glowplug.runner.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from glowplug.runner.function import Loaded

# User code that asks for __main__ (spawned processes, pickles) must not meet our boot script.
USER_MAIN = type(sys)("__main__")


def serve(fd: int, loaded: Loaded | None = None) -> int:
    """Run one process of a container over one socket; return its exit code.

    `loaded`: the function, imported in the template from which this process was forked.
    """
    channel = Channel(fd)
    init = say_hello(channel)
    if init is None:
        return 0
    os.environ.update(init.get("env") or {})
    sys.modules["__main__"] = USER_MAIN
    if init["mode"] == "session":
        from glowplug.runner.session import serve_session  # noqa: PLC0415 - one mode per process

        return serve_session(channel, init)
    from glowplug.runner.function import serve_function  # noqa: PLC0415 - one mode per process

    return serve_function(channel, init, loaded)


def say_hello(channel: Channel) -> frames.Header | None:
    """Greet the worker; return its first frame, None when it is gone."""
    channel.send(
        {"type": "hello", "pid": os.getpid(), "python": sys.version.partition(" ")[0]},
    )
    first = channel.receive()
    if first is None:
        return None
    init = first[0]
    if init["type"] != "init":
        raise frames.FrameError(f"the first frame is {init['type']!r}, not init")
    return init
