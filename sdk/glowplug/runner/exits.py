"""The end of a function's process: its `on_exit` within the grace, then the rest.

Runs after the lane has ended, in the main thread, once per process, and only when the worker asked for the
end: after a crash or a kill there is nobody left to do it. What it raises is printed and changes nothing.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

# Set while the user's hook runs, so that a process whose grace is over can say what it was doing.
_RUNNING = [False]


def leave(
    hook: Callable[..., Any] | None, started: object, loop: asyncio.AbstractEventLoop | None
) -> None:
    """Run `hook`, which gets what on_start returned if it takes an argument; then end the loop."""
    if hook is not None:
        _RUNNING[0] = True
        try:
            value = hook(started) if _takes_one(hook) else hook()
            if hasattr(value, "__await__"):
                loop = loop or _new_loop()
                loop.run_until_complete(value)
        except BaseException:  # noqa: BLE001 - SystemExit too: it is ending anyway
            _print_failure()
        _RUNNING[0] = False
    if loop is not None:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    import asyncio  # noqa: PLC0415 - 30 to 75 ms, only for async functions

    return asyncio.new_event_loop()


def end_after(grace_s: float) -> None:
    """End the process after the grace, with or without its last results (in a thread of its own)."""
    time.sleep(grace_s)
    if _RUNNING[0]:
        sys.stderr.write(
            f"[glowplug: on_exit had not ended after {grace_s:g} s and was given up]\n"
        )
        sys.stderr.flush()
    os._exit(0)


def _takes_one(hook: Any) -> bool:
    """Return whether the hook wants an argument; without a look at `inspect`, which costs 12 ms."""
    code = getattr(hook, "__code__", None)
    if code is None:
        return False
    bound = int(hasattr(hook, "__self__"))
    return bool(code.co_argcount - bound)


def _print_failure() -> None:
    import traceback  # noqa: PLC0415 - 13 ms, only for failures

    sys.stderr.write(f"on_exit failed:\n{traceback.format_exc()}")
