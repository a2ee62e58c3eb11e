"""Forks a child not of this process but of its parent. Standard library only; runs in the helper."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = {"x86_64": 56, "aarch64": 220}
FLAGS = 0x8000 | int(_signal.SIGCHLD)  # CLONE_PARENT


def siblings(machine: str) -> Callable[[], int]:
    """Return what forks: 0 in the child, else its pid. Raises: OSError."""
    call = ctypes.PyDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    python = ctypes.pythonapi
    arguments = [ctypes.c_long(each) for each in (CALLS[machine], FLAGS, 0, 0, 0, 0)]

    def fork() -> int:
        python.PyOS_BeforeFork()
        result = int(call(*arguments))
        if result == 0:
            python.PyOS_AfterFork_Child()
            return 0
        python.PyOS_AfterFork_Parent()
        if result < 0:
            raise OSError(ctypes.get_errno(), "the container's first process can't be forked")
        return result

    return fork
