"""Says hello to the worker, takes the first frame, and enters the mode that it names."""

from __future__ import annotations

import os
import sys

from glowplug.runner import frames
from glowplug.runner.channel import Channel

# User code that asks for __main__ (spawned processes, pickles) must not meet our boot script.
USER_MAIN = type(sys)("__main__")


def serve(fd: int) -> int:
    """Run one process of a container over one socket; return its exit code."""
    channel = Channel(fd)
    channel.send(
        {"type": "hello", "pid": os.getpid(), "python": sys.version.partition(" ")[0]},
    )
    first = channel.receive()
    if first is None:
        return 0
    init = first[0]
    if init["type"] != "init":
        raise frames.FrameError(f"the first frame is {init['type']!r}, not init")
    os.environ.update(init.get("env") or {})
    sys.modules["__main__"] = USER_MAIN
    if init["mode"] == "session":
        from glowplug.runner.session import serve_session  # noqa: PLC0415 - one mode per process

        return serve_session(channel, init)
    from glowplug.runner.function import serve_function  # noqa: PLC0415 - one mode per process

    return serve_function(channel, init)
