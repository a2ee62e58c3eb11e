"""A template: a process with its imports done, from which the worker's nursery forks containers in milliseconds.

It has one thread, no sockets but the worker's two, and sleeps in a read. Told to fork, it asks for new
namespaces, which its filter grants only while the nursery traces it. The newborn is stopped until it has been
given its own file systems and has lost every power; then it is process 1 of its own and forks once more: the
proper way of libc, so that every library's handlers run. That second child is the runner.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import sys
import time

from glowplug.runner import door, failures, function, reseed
from glowplug.runner.capture import Capture
from glowplug.runner.channel import Channel
from glowplug.runner.start import USER_MAIN, say_hello, serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from glowplug.runner.frames import Header

# NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID and SIGCHLD: exactly what the nursery lets through.
CLONE_FLAGS = 0x20000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 17
CLONE_CALL = 56
ORDER_BYTES = 64
# The runner's socket, its stderr, the pipe for its exit code, and what the nursery hands the newborn things by.
GIVEN = 4


def serve_template(fd: int, control_fd: int) -> int:
    """Load what `init` names, then fork a runner for every order; return a runner's exit code in it."""
    channel = Channel(fd)
    init = say_hello(channel)
    if init is None:
        return 0
    os.environ.update(init.get("env") or {})
    sys.modules["__main__"] = USER_MAIN
    capture = Capture()
    loaded = None
    if init["mode"] == "function":
        try:
            loaded = _load(channel, init, capture)
        except BaseException as error:  # noqa: BLE001 - SystemExit at import, too
            source = str(init.get("source") or "")
            report = failures.remote_error(error, "function.start_failed", source=source)
            channel.send({"type": "start_failed", "error": report})
            return 1
    import glowplug.runner.pickling  # noqa: F401, PLC0415 - what a template imports costs its children nothing

    _let_libraries_rest()
    control = _open_control(control_fd)
    fork = _clone()
    try:
        found = reseed.find()
    except reseed.UnseedableError as error:
        report = failures.remote_error(error, "function.start_failed", source="")
        channel.send({"type": "start_failed", "error": report})
        return 1
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.freeze()
    channel.send({"type": "ready", "phases": loaded.phases if loaded is not None else {}})
    control.send(b"ready")
    given = _until_newborn(control, fork)
    if given is None:
        return 0
    control.close()
    channel.close()
    if loaded is not None:
        loaded.phases = {"import_s": 0.0}
    reseed.reseed(found)
    if hasattr(time, "tzset"):
        time.tzset()
    return serve(given, loaded)


def _load(channel: Channel, init: Header, capture: Capture) -> function.Loaded:
    """Import the user's code. Asking the platform is refused meanwhile, as in any import."""
    blobs = function.receive_blobs(channel, init)
    door.open_door(channel, function.current_invocation, str(init.get("deployment_id") or ""))
    capture.install()
    loaded = function.import_all(init, blobs)
    if init.get("share_on_start"):
        loaded.start()
    loaded.capture = capture
    return loaded


def _let_libraries_rest() -> None:
    """Fork once, in libc's proper way: libraries that end their threads before a fork (numpy's OpenBLAS) do it now.

    They start them again when they are used, each container for itself. Threads that stay are found by the worker.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _open_control(fd: int) -> socket.socket:
    import socket  # noqa: PLC0415 - what a template imports costs its children nothing

    os.set_inheritable(fd, False)  # noqa: FBT003 - positional only
    return socket.socket(fileno=fd)


def _clone() -> Callable[[], int]:
    """Return what forks into new namespaces: 0 in the newborn, else its pid or -errno."""
    import ctypes  # noqa: PLC0415 - likewise

    call = ctypes.PyDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    python = ctypes.pythonapi
    arguments = [ctypes.c_long(each) for each in (CLONE_CALL, CLONE_FLAGS, 0, 0, 0, 0)]

    def clone() -> int:
        python.PyOS_BeforeFork()
        result = int(call(*arguments))
        if result == 0:
            python.PyOS_AfterFork_Child()
        else:
            python.PyOS_AfterFork_Parent()
        return result

    return clone


def _until_newborn(control: socket.socket, clone: Callable[[], int]) -> int | None:
    """Fork for every order. Return the runner's descriptor in a runner; None when there will be no more."""
    before = _signal.signal(_signal.SIGCHLD, _reap)
    while True:
        given = _next_order(control)
        if given is None:
            return None
        if clone() == 0:
            _signal.signal(_signal.SIGCHLD, before)
            return _become_two(*given)
        for fd in given:
            os.close(fd)


def _next_order(control: socket.socket) -> list[int] | None:
    import socket  # noqa: PLC0415 - loaded already

    data, fds, _, _ = socket.recv_fds(control, ORDER_BYTES, GIVEN)
    return fds if data and len(fds) == GIVEN else None


def _reap(_number: int, _frame: object) -> None:
    """Let go of containers that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _become_two(runner: int, stderr: int, exit_pipe: int, gift: int) -> int:
    """Stay as process 1 and look after the runner, which is the child; return its descriptor there."""
    os.close(gift)
    pid = os.fork()
    if pid:
        _look_after(pid, exit_pipe)
    os.setsid()
    os.close(exit_pipe)
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    os.close(stderr)
    return runner


def _look_after(runner: int, exit_pipe: int) -> None:
    """Reap what ends; with the runner everything ends. Never returns."""
    for number in (_signal.SIGINT, _signal.SIGTERM):
        _signal.signal(number, _signal.SIG_IGN)
    os.closerange(0, exit_pipe)
    os.closerange(exit_pipe + 1, os.sysconf("SC_OPEN_MAX"))
    while True:
        pid, status = os.wait()
        if pid == runner:
            os.write(exit_pipe, b"%d" % os.waitstatus_to_exitcode(status))
            os._exit(0)
