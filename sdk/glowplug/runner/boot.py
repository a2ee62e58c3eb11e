"""First file that runs in a container: `python -I -S …/glowplug/runner/boot.py --fds 3[,4…]`.

`--template 4`: this process is one from which runners are forked (`template.py`), told so over that descriptor.
One descriptor: this process is the runner. Several: one child per descriptor, forked before anything is
imported; this process then only waits, passes SIGTERM on, and ends when the last child has.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run until the worker says stop; return the exit code."""
    fds = [int(fd) for fd in sys.argv[sys.argv.index("--fds") + 1].split(",")]
    template = int(sys.argv[sys.argv.index("--template") + 1]) if "--template" in sys.argv else 0
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.append(root)
    sys.argv = [""]
    if template:
        from glowplug.runner.template import serve_template  # noqa: PLC0415 - imports it all

        return serve_template(fds[0], template)
    if len(fds) > 1:
        own = _fork_each(fds)
        if own is None:
            return _wait_for_all()
        fds = [own]
    from glowplug.runner.start import serve  # noqa: PLC0415 - after the fork

    return serve(fds[0])


def _fork_each(fds: list[int]) -> int | None:
    """Return the child's descriptor in each child, None in the parent."""
    import ctypes  # noqa: PLC0415 - 10 ms once, only for several processes

    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()
    for fd in fds:
        pid = os.fork()
        if pid == 0:
            CHILDREN.clear()
            # The worker's death reaches this parent as a signal; pass it on, C loops included.
            prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(0)
            for other in fds:
                if other != fd:
                    os.close(other)
            return fd
        CHILDREN.add(pid)
    for fd in fds:
        os.close(fd)
    return None


CHILDREN: set[int] = set()
PR_SET_PDEATHSIG = 1
SIGKILL = 9


def _wait_for_all() -> int:
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415 - the enum-free half of signal

    def forward(number: int, _frame: object) -> None:
        for pid in CHILDREN:
            os.kill(pid, number)

    _signal.signal(_signal.SIGTERM, forward)
    worst = 0
    while CHILDREN:
        pid, status = os.wait()
        CHILDREN.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        worst = worst or (code if code >= 0 else 128 - code)
        if code != 0:
            # The container is broken as a whole; its end says how this one ended.
            forward(_signal.SIGKILL, None)
    return worst


if __name__ == "__main__":
    sys.exit(main())
