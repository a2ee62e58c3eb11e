"""The launcher's process: `python -I -S …/runtime/launcher --fd N`. One order at a time, until the worker ends.

An order is a packet with descriptors: a file in memory with JSON that says what to start; where its output goes;
where to say why it can't be started (closed by `exec`, so that silence means that it was); then those that it
keeps, under the numbers that the order names. The answer is a packet: the pid, with a pidfd, or an error.

The process is made as the worker's own child (CLONE_PARENT): the worker waits for it, and it dies with the
worker.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import array
import ctypes
import fcntl
import gc
import json
import os
import platform
import socket
import sys

# Of the package only this folder is needed: what the worker itself imports would not be found here.
_package = type(sys)("glowplug_worker")
_package.__path__ = [os.path.abspath(f"{__file__}/../../..")]  # noqa: PTH100 - no pathlib
sys.modules["glowplug_worker"] = _package

from glowplug_worker.runtime.child import Birth, Staged, allow_open_files  # noqa: E402 - found only now
from glowplug_worker.runtime.launcher.clone import siblings  # noqa: E402 - likewise
from glowplug_worker.runtime.packets import receive  # noqa: E402 - likewise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PACKET_BYTES_MAX = 64
FDS_MAX = 253  # as many as one packet carries, see client.py
FIRST_FREE = 3
COULD_NOT = 255


def main() -> int:
    """Serve the worker."""
    channel = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    channel.set_inheritable(False)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(_signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        return 0
    allow_open_files()  # what it keeps gets the worker's numbers
    fork = siblings(platform.machine())
    gc.freeze()  # a fork then copies less
    while True:
        data, fds = receive(channel, PACKET_BYTES_MAX, FDS_MAX)
        if not data:
            return 0
        given: list[int] = []
        try:
            pid = start(fork, fds)
            given = [os.pidfd_open(pid)]
            answer: dict[str, object] = {"pid": pid}
        except (OSError, ValueError, KeyError, IndexError) as error:
            answer = {"error": f"{error!r}"}
        for fd in fds:
            os.close(fd)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))] if given else []
        channel.sendmsg([json.dumps(answer).encode()], rights)
        for fd in given:
            os.close(fd)


def start(fork: Callable[[], int], fds: list[int]) -> int:
    """Start a process; return its pid. It may yet fail before its `exec`, and says so itself."""
    ordered, output, failing, *kept = fds
    order = json.loads(os.pread(ordered, os.fstat(ordered).st_size, 0))
    pid = fork()
    if pid == 0:
        become(order, output, failing, kept)
    return pid


def become(order: dict[str, Any], output: int, failing: int, kept: list[int]) -> NoReturn:
    """Turn this process, a copy of the launcher, into what was ordered."""
    try:
        numbers: list[int] = order["numbers"]
        above = max([FIRST_FREE, *(number + 1 for number in numbers)])
        output, failing, *kept = [
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in (output, failing, *kept)
        ]
        os.setsid()
        for name in ("SIGPIPE", "SIGXFSZ"):  # which Python ignores
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)
        os.dup2(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for fd, number in zip(kept, numbers):  # noqa: B905 - any Python
            os.dup2(fd, number, inheritable=number in order["inherited"])
        if order["cwd"]:
            os.chdir(order["cwd"])
        given = order["birth"]
        given["staged"] = tuple(Staged(source, name) for source, name in given["staged"])
        Birth(**given).prepare()
        os.execve(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - that is what it is for
    except BaseException as error:  # noqa: BLE001 - a copy of the launcher must not go on
        os.write(failing, f"{error}".encode())
    os._exit(COULD_NOT)


if __name__ == "__main__":
    sys.exit(main())
