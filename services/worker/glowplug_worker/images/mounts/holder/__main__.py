"""The holder's process: `python -I -S …/mounts/holder --control N --group N`. Until the worker ends, and then a little.

An order is a packet of JSON with an id, and descriptors; its answer has the same id, and "error" if it failed:

    watch {device} + the file        reads of it wait for the daemon, but for those who have it open already
    show {device} + the file, FUSE   what is asked by this descriptor of /dev/fuse are reads of this file
    unwatch {device, filled}         they wait no more; refused while somebody has the file open and it is not filled
    daemon + its channel             needs go there; those that nobody answered are told again
    target {path}                    what to unmount when the worker is gone
    room {path}                      where all of it is mounted: the last thing to unmount then

When the worker is gone, reads that would have to be fetched fail, and it tries to unmount until nobody has the
files open any more. With `--closing` it begins there, in the place of a holder that was killed: what that one
had read from the group is answered by number.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import json
import os
import resource
import select
import socket
import sys
import time
from collections import deque

# Of the package only these folders are needed: what the worker itself imports would not be found here.
_here = os.path.abspath(f"{__file__}/../../../..")  # noqa: PTH100 - no pathlib
for _name, _path in (
    ("glowplug_worker", _here),
    ("glowplug_worker.images", f"{_here}/images"),
    ("glowplug_worker.images.mounts", f"{_here}/images/mounts"),
):
    sys.modules[_name] = type(sys)(_name)
    sys.modules[_name].__path__ = [_path]

from glowplug_worker.images.mounts import fuse, kernel  # noqa: E402 - found only now
from glowplug_worker.images.mounts.holding import Holding, Reader, Reply, Send  # noqa: E402 - likewise
from glowplug_worker.images.mounts.wire import (  # noqa: E402 - likewise
    PACKET_BYTES_MAX,
    decode_answer,
    encode_need,
)
from glowplug_worker.runtime.packets import receive  # noqa: E402 - likewise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

ORDER_BYTES_MAX = 1 << 16
# Each reader that waits takes a descriptor; those beyond wait in the kernel's queue.
FDS_MAX = 4096
WAITING_MAX = FDS_MAX - 1024
# How often it looks whether time has passed, or nobody reads any more.
TICK_S = 1.0
CLOSING_TICK_S = 0.05
FANOTIFY = 0


class Holder:
    """Performs what `Holding` decides."""

    def __init__(self, control: socket.socket | None, group: int) -> None:
        self._control, self._group = control, group
        self._daemon: socket.socket | None = None
        self._holding = Holding()
        self._files: dict[int, int] = {}
        self._devices: dict[tuple[int, int], int] = {}
        self._shown: dict[int, int] = {}  # devices by their descriptors of /dev/fuse
        self._targets: list[str] = []
        self._room = ""
        self._unsent: deque[bytes] = deque()

    def run(self) -> None:
        """Serve, and end when nobody reads any more."""
        while not (self._holding.closing and self._all_gone()):
            tick_s = CLOSING_TICK_S if self._holding.closing else TICK_S
            ready = dict(self._poller().poll(tick_s * 1000))
            if self._daemon is not None and ready.get(self._daemon.fileno(), 0):
                self._on_daemon(self._daemon)
            if self._group in ready:
                self._on_readers()
            for door in [door for door in self._shown if door in ready]:
                self._on_requests(door)
            if self._control is not None and self._control.fileno() in ready:
                self._on_control(self._control)
            self._perform(self._holding.passed(time.monotonic()))
        if self._room:
            kernel.unmount(self._room, detach=True)

    def _poller(self) -> select.poll:
        poller = select.poll()
        if self._control is not None:
            poller.register(self._control, select.POLLIN)
        if self._daemon is not None:
            wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
            poller.register(self._daemon, wanted)
        if self._holding.waiting < WAITING_MAX:
            for readers in (self._group, *self._shown):
                if readers >= 0:
                    poller.register(readers, select.POLLIN)
        return poller

    def _on_readers(self) -> None:
        for descriptor, offset, count in kernel.read_events(self._group):
            facts = os.fstat(descriptor)
            device = self._devices.get((facts.st_dev, facts.st_ino), -1)
            reader = Reader(FANOTIFY, descriptor)
            self._perform(self._holding.need(reader, device, offset, count, time.monotonic()))

    def _on_requests(self, door: int) -> None:
        device = self._shown[door]
        try:
            request = os.read(door, fuse.REQUEST_BYTES_MAX)
        except OSError as error:
            # EAGAIN: nothing is asked. ENOENT: whoever asked has gone.
            if error.errno == errno.ENODEV:  # it is mounted nowhere any more
                del self._shown[door]
                os.close(door)
            return
        wanted = fuse.take(request, os.fstat(self._files[device]).st_size)
        if isinstance(wanted, fuse.Read):
            reader = Reader(door, wanted.number)
            now = time.monotonic()
            self._perform(self._holding.need(reader, device, wanted.offset, wanted.size, now))
        elif wanted:
            _write(door, wanted)

    def _on_daemon(self, daemon: socket.socket) -> None:
        try:
            while self._unsent:
                daemon.send(self._unsent[0], socket.MSG_DONTWAIT)
                self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._daemon_went()
            return
        try:
            while True:
                data = daemon.recv(PACKET_BYTES_MAX, socket.MSG_DONTWAIT)
                if not data:
                    self._daemon_went()
                    return
                self._perform(self._holding.answered(decode_answer(data)))
        except BlockingIOError:
            return
        except OSError:
            self._daemon_went()

    def _daemon_went(self) -> None:
        if self._daemon is not None:
            self._daemon.close()
            self._daemon = None
            self._unsent.clear()
            self._holding.daemon_went(time.monotonic())

    def _on_control(self, control: socket.socket) -> None:
        try:
            data, fds = receive(control, ORDER_BYTES_MAX, 2)
        except OSError:
            data, fds = b"", []
        if not data:
            self.close()
            return
        order = json.loads(data)
        try:
            answer = self._obey(order, fds)
        except (OSError, ValueError, KeyError, IndexError) as error:
            answer = {"error": f"{error}"}
        try:
            control.send(json.dumps({"id": order["id"], **answer}).encode())
        except OSError:
            self.close()

    def _obey(self, order: dict[str, Any], fds: list[int]) -> dict[str, str]:
        kind = order["order"]
        if kind == "daemon":
            self._daemon_went()
            self._daemon = socket.socket(fileno=fds[0])
            self._daemon.setblocking(False)  # noqa: FBT003 - positional only
            self._perform(self._holding.daemon_came())
        elif kind == "watch":
            self._watch(order["device"], fds[0])
        elif kind == "show":
            self._files[order["device"]], door = fds
            os.set_blocking(door, False)
            self._shown[door] = order["device"]
            self._holding.watch(order["device"])
        elif kind == "unwatch":
            return self._unwatch(order["device"], filled=order["filled"])
        elif kind == "target":
            self._targets.append(order["path"])
        elif kind == "room":
            self._room = order["path"]
        else:
            raise ValueError(f"no such order: {kind}")
        return {}

    def _watch(self, device: int, file: int) -> None:
        facts = os.fstat(file)
        kernel.mark(self._group, file)
        self._files[device] = file
        self._devices[facts.st_dev, facts.st_ino] = device
        self._holding.watch(device)

    def _unwatch(self, device: int, *, filled: bool) -> dict[str, str]:
        file = self._files[device]
        for door in [door for door, shown in self._shown.items() if shown == device]:
            self._on_requests(door)  # it may say that all is unmounted
        if device in self._shown.values():
            return {} if filled else {"error": "in use"}  # only unmounting it ends that
        # The worker and the daemon hold duplicates of this very descriptor: they do not count.
        if not filled and kernel.opened_elsewhere(file):
            return {"error": "in use"}
        facts = os.fstat(file)
        if (facts.st_dev, facts.st_ino) in self._devices:
            kernel.unmark(self._group, file)
        if filled:
            return {}  # who was told to wait meanwhile is still answered
        self._devices.pop((facts.st_dev, facts.st_ino), None)
        del self._files[device]
        self._perform(self._holding.unwatch(device))
        os.close(file)
        return {}

    def _perform(self, decisions: Iterable[Reply | Send]) -> None:
        for decision in decisions:
            if isinstance(decision, Reply) and decision.reader.door != FANOTIFY:
                self._serve(decision)
            elif isinstance(decision, Reply):
                kernel.respond(self._group, decision.reader.number, decision.error)
                os.close(decision.reader.number)
            else:
                self._tell(encode_need(decision.need))

    def _serve(self, decision: Reply) -> None:
        """Answer a request of FUSE's with what is in the file."""
        (door, number), error, need = decision
        if error:
            _write(door, fuse.refusal(number, error))
        elif door in self._shown:
            data = os.pread(self._files[need.device], need.size, need.offset)
            _write(door, fuse.reply(number, data))

    def _tell(self, packet: bytes) -> None:
        """Tell the daemon; what it has no room for waits here, bounded by how many readers wait."""
        if self._daemon is None:
            return
        if not self._unsent:
            try:
                self._daemon.send(packet, socket.MSG_DONTWAIT)
            except OSError as error:
                # Of a broken channel `_on_daemon` hears by itself.
                if error.errno not in {errno.EAGAIN, errno.ENOBUFS}:
                    return
            else:
                return
        self._unsent.append(packet)

    def close(self) -> None:
        """The worker is gone."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._daemon is not None:
            self._daemon.close()
            self._daemon = None
        self._perform(self._holding.close())

    def _all_gone(self) -> bool:
        """Unmount; return whether this may end: of FUSE's readers always, since without a server they get errors."""
        self._targets = [path for path in self._targets if not kernel.unmount(path)]
        return not any(kernel.opened_elsewhere(file) for file in self._files.values())


def _write(door: int, answer: bytes) -> None:
    try:
        os.write(door, answer)
    except OSError as error:
        # Whoever asked was killed, or all is unmounted.
        if error.errno not in {errno.ENOENT, errno.ENODEV, errno.EBADF}:
            raise


def main() -> int:
    """Serve the worker."""
    control, group = (
        int(sys.argv[sys.argv.index(f"--{name}") + 1]) for name in ("control", "group")
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = FDS_MAX if hard == resource.RLIM_INFINITY else min(FDS_MAX, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    # It has to outlive what Ctrl-C and a stop of the service's processes end.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        _signal.signal(getattr(_signal, name), _signal.SIG_IGN)
    channel = socket.socket(fileno=control)
    channel.set_inheritable(False)
    if group >= 0:
        os.set_inheritable(group, False)  # noqa: FBT003 - positional only
    holder = Holder(channel, group)
    if "--closing" in sys.argv and group >= 0:
        # Those who wait for one that was killed: its numbers were below this. Ours are not read yet.
        for number in range(FDS_MAX):
            kernel.respond(group, number, errno.EIO)
    holder.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
