"""The nursery's process: `python -I -S …/runtime/nursery --fd N`. One request at a time, until the worker ends.

An ordinary user's first makes a user namespace in which it may do what it must, and hands it to the worker with
its word that it is ready: templates are started in there.

A request is one packet, JSON with four descriptors: the template's control socket, and what the newborn
gets: its runner's socket, its stderr, and a pipe for its exit code. The answer is one packet: the newborn's
pid and a pidfd, or an error. Whatever goes wrong, the newborn is killed and the template let go.
"""

from __future__ import annotations

import array
import gc
import json
import os
import signal
import socket
import sys
from typing import Final

# Of the package only this folder is needed: what the worker itself imports would not be found here.
_package = type(sys)("glowplug_worker")
_package.__path__ = [os.path.abspath(f"{__file__}/../../..")]  # noqa: PTH100 - no pathlib
sys.modules["glowplug_worker"] = _package

from glowplug_worker.runtime.nursery import dress, home, puppet, tracer  # noqa: E402 - found only now
from glowplug_worker.runtime.packets import receive  # noqa: E402 - likewise

REQUEST_BYTES_MAX: Final = 1 << 18
FDS_MAX: Final = 8
FORK_S_MAX: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1
# What a newborn must show before it runs.
_NOTHING: Final = "0000000000000000"
_WANTED: Final = {
    **{f"Cap{name}": _NOTHING for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")},
    "NoNewPrivs": "1",
    "Seccomp": "2",
}


def main() -> int:
    """Serve the worker."""
    channel = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    parent = os.getppid()
    tracer.LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return 0
    signal.signal(signal.SIGALRM, _on_alarm)
    try:
        mine = home.open_home() if os.geteuid() != 0 else []
    except OSError as error:
        channel.send(json.dumps({"error": f"{error}"}).encode())
        return 1
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", mine))] if mine else []
    channel.sendmsg([b'{"ready": true}'], rights)
    gc.freeze()  # a fork then copies less
    while True:
        data, fds = receive(channel, REQUEST_BYTES_MAX, FDS_MAX)
        if not data:
            return 0
        answer: dict[str, object]
        given: list[int] = []
        try:
            signal.setitimer(signal.ITIMER_REAL, FORK_S_MAX)
            try:
                pid = fork(json.loads(data), fds, asked=bool(mine))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            answer = {"pid": pid}
            given = [os.pidfd_open(pid)]
        except (OSError, ValueError, KeyError, tracer.TraceError, TimeoutError) as error:
            answer = {"error": f"{error}"}
        finally:
            for fd in fds:
                os.close(fd)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))] if given else []
        channel.sendmsg([json.dumps(answer).encode()], rights)
        for fd in given:
            os.close(fd)


def fork(order: dict[str, object], fds: list[int], *, asked: bool) -> int:
    """Fork a container from a template; return its first process, which runs by then.

    `asked`: the template's filter leaves the call to us. Raises: OSError, tracer.TraceError.
    """
    template = int(str(order["template"]))
    if _started(template) != order["started"]:
        raise ProcessLookupError("the template is gone")
    control, *given = fds
    child = dresser = 0
    gift, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with gift, theirs, tracer.traced(template):
            _say(control, [*given, theirs.fileno()])
            tracer.run_to_clone(template)
            own_network = bool(order.get("own_network"))
            child = tracer.newborn(template, own_network=own_network, asked=asked)
            dresser = dress.begin(child, template, order)
            # The template stands still meanwhile: what the newborn is handed now is not for its ears.
            with puppet.opened(child) as stringed:
                puppet.join(stringed, gift, theirs, order.get("cgroups", ()))  # type: ignore[arg-type]
                puppet.drop_capabilities(stringed)
        begun, dresser = dresser, 0
        dress.finish(begun)
        _verify(child)
    except BaseException:
        if dresser:
            dress.give_up(dresser)
        if child:
            os.kill(child, signal.SIGKILL)
            tracer.let_go(child)
        raise
    tracer.let_go(child)
    return child


def _say(control: int, given: list[int]) -> None:
    """Tell the template to fork, and what for."""
    with socket.socket(fileno=os.dup(control)) as channel:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))
        channel.sendmsg([b"fork"], [rights], socket.MSG_DONTWAIT)


def _verify(pid: int) -> None:
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123
        found = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    wrong = [name for name, value in _WANTED.items() if found.get(name) != value]
    if wrong:
        raise tracer.TraceError(f"the newborn has the wrong {', '.join(wrong)}")


def _started(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def _on_alarm(_number: int, _frame: object) -> None:
    raise TimeoutError("the template took too long")


if __name__ == "__main__":
    sys.exit(main())
