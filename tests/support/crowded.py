"""A process with many descriptors, as a worker with many containers is one."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

BEYOND_SELECT = 1_100


@contextlib.contextmanager
def crowded() -> Iterator[None]:
    """Let every descriptor that is opened in the block have a number that `select` does not take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * BEYOND_SELECT
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    with contextlib.ExitStack() as stack:
        nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, nothing)
        while nothing < BEYOND_SELECT:
            nothing = os.dup(nothing)
            stack.callback(os.close, nothing)
        yield
