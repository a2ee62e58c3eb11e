"""Makes a rooted container and waits for its end; the order is in a file whose descriptor is the argument.

A program of its own, standard library only, since it becomes the container's first process. Run by root
it maps 65,536 ids that are the container's alone, so that packages get their owners; an ordinary user has one id
to give, which is root inside. Nothing that an image names is followed outside of it: what is made for mounts in
its tree is made from within, as the container's own root.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import select
import signal
import sys
from collections.abc import Iterator
from typing import Any, Final

from glowplug_worker.runtime.rooted import calls, lacking

IDS: Final = 65_536
_STAGE: Final = ("/mnt", "/srv", "/media", "/opt", "/tmp")  # noqa: S108 - a private mount
_SAFE: Final = calls.MS_NOSUID | calls.MS_NODEV | calls.MS_NOEXEC
DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
MASKED: Final = (
    "/proc/acpi", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/key-users", "/proc/keys",
    "/proc/kmsg", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats",
)  # fmt: skip
READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_NO_METADATA: Final = "redirect_dir=nofollow,metacopy=off,index=off,xino=off"
SHM: Final = "mode=1777,size=1g"


class LackingError(Exception):
    """This host can't have such containers; the text says why."""


@contextlib.contextmanager
def _needing(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LackingError(lacking.sentence(what, error)) from error


def main() -> int:
    """Return how the container's process ended, as a shell would."""
    fd = int(sys.argv[1])
    with os.fdopen(fd) as file:
        order = json.load(file)
    me = os.pidfd_open(os.getpid())
    try:
        made = _make(order)
    except (LackingError, OSError) as error:
        os.write(2, f"{error}\n".encode())
        return 127
    calls.unshare(calls.NEWPID)
    inner = os.fork()
    if inner == 0:
        code = 127
        try:
            code = _be_first(order, me, *made)
        except BaseException as error:  # noqa: BLE001 - a forked child must not return
            os.write(2, f"the build's root can't be made: {error}\n".encode())
        os._exit(code)
    os.close(order["alive"])
    for each in order["fds"]:
        os.close(each)
    return _shell_code(os.waitpid(inner, 0)[1])


def _make(order: dict[str, Any]) -> tuple[int, str, list[tuple[int, str]]]:
    """Make all of the container but its processes: return its user namespace (-1 = ours), root and mounts."""
    first_id = order["first_id"]
    more = calls.NEWNS | calls.NEWIPC | calls.NEWUTS | (calls.NEWNET if order["no_network"] else 0)
    users = -1
    if first_id is None:
        uid, gid = os.getuid(), os.getgid()
        with _needing(lacking.USERS):
            calls.unshare(calls.NEWUSER | more)
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"0 {uid} 1")
            _write("/proc/self/gid_map", f"0 {gid} 1")
    else:
        with _needing(lacking.USERS):
            users = _new_users(first_id)
        calls.unshare(more)
    calls.mount(None, "/", None, calls.MS_REC_SLAVE)
    name = order["hostname"].encode()
    calls.check(calls.LIBC.sethostname(name, len(name)), "naming the host")
    mounts = [
        (calls.view(source, writable=writable), target)
        for source, target, writable, _ in order["binds"]
    ]
    with _needing(lacking.MAPPED):
        lower = calls.mapped_view(order["lower"], users) if users >= 0 else -1
    changes = calls.view(order["changes"], writable=True)
    stage = next(path for path in _STAGE if os.path.isdir(path))  # noqa: PTH112
    below = order["lower"]
    if lower < 0:
        lower = calls.view(below, writable=False)
    calls.mount("tmpfs", stage, "tmpfs", calls.MS_NOSUID | calls.MS_NODEV, "mode=0755,size=1m")
    for each in ("lower", "changes", "root"):
        os.mkdir(f"{stage}/{each}")  # noqa: PTH102
    calls.attach(lower, f"{stage}/lower")
    calls.attach(changes, f"{stage}/changes")
    layers = f"lowerdir={stage}/lower,upperdir={stage}/changes/upper,workdir={stage}/changes/work"
    more_options = "" if users >= 0 else ",userxattr"
    with _needing(lacking.OVERLAY):
        calls.mount(
            "overlay",
            f"{stage}/root",
            "overlay",
            calls.MS_NODEV | calls.MS_NOSUID,
            f"{layers},{_NO_METADATA}{more_options}",
        )
    places = [(bind[1], bind[3]) for bind in order["binds"]]
    _within(users, f"{stage}/root", [*places, ("/proc", True), ("/dev", True), ("/sys", True)])
    return users, f"{stage}/root", mounts


def _new_users(first_id: int) -> int:
    """Return a user namespace in which ids of the container's own are 0 and onwards."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            calls.unshare(calls.NEWUSER)
            os.write(told, b"1")
            signal.pause()
        os._exit(0)
    os.close(told)
    try:
        if os.read(ready, 1) != b"1":
            raise OSError("no user namespace can be made")
        for kind in ("uid", "gid"):
            _write(f"/proc/{child}/{kind}_map", f"0 {first_id} {IDS}")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _within(users: int, root: str, places: list[tuple[str, bool]]) -> None:
    """Make the places of mounts, as the container's root and from within its tree."""
    child = os.fork()
    if child == 0:
        try:
            if users >= 0:
                calls.setns(users, calls.NEWUSER)
                _be_root()
            os.chroot(root)
            os.chdir("/")
            _make_places(places)
        except BaseException as error:  # noqa: BLE001 - a forked child must not return
            os.write(2, f"the places of mounts can't be made: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        raise OSError("the image has something in the way")


def _make_place(path: str, is_folder: bool) -> None:  # noqa: FBT001 - of a list
    """Make an empty directory or file to mount over; what of the image has another kind goes."""
    if os.path.islink(path) or (os.path.lexists(path) and os.path.isdir(path) != is_folder):  # noqa: PTH112, PTH114
        if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
            raise OSError(f"{path} is a directory")
        os.unlink(path)  # noqa: PTH108
    folder = path if is_folder else os.path.dirname(path)  # noqa: PTH120
    os.makedirs(folder, 0o755, exist_ok=True)  # noqa: PTH103
    if not is_folder and not os.path.exists(path):  # noqa: PTH110
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _make_places(places: list[tuple[str, bool]]) -> None:
    """Make them, and leave the directories that were there as old as they were."""
    for path, is_folder in places:
        at = os.path.dirname(path)  # noqa: PTH120
        while not os.path.exists(at):  # noqa: PTH110
            at = os.path.dirname(at)  # noqa: PTH120
        facts = os.stat(at)  # noqa: PTH116
        _make_place(path, is_folder)
        os.utime(at, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    if not os.path.exists("/tmp"):  # noqa: PTH110, S108 - the image's
        os.mkdir("/tmp")  # noqa: PTH102, S108
        os.chmod("/tmp", 0o1777)  # noqa: PTH101, S103, S108


def _be_first(
    order: dict[str, Any], outer: int, users: int, root: str, mounts: list[tuple[int, str]]
) -> int:
    """Become the container's first process, start the one that is asked for, and reap until it ends."""
    devices = [
        (calls.view(f"/dev/{name}", writable=True, device=True), f"/dev/{name}") for name in DEVICES
    ]
    machine = platform.machine()
    # While the host's is still there to be seen: without one, an ordinary user may mount none.
    calls.mount("proc", f"{root}/proc", "proc", _SAFE)
    calls.enter(root, machine)
    calls.mount("tmpfs", "/dev", "tmpfs", calls.MS_NOSUID | calls.MS_NOEXEC, "mode=0755,size=64k")
    for fd, path in devices:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        calls.attach(fd, path)
    for folder in ("/dev/pts", "/dev/shm"):  # noqa: S108 - inside
        os.mkdir(folder)  # noqa: PTH102
    calls.mount(
        "devpts",
        "/dev/pts",
        "devpts",
        calls.MS_NOSUID | calls.MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    )
    calls.mount("tmpfs", "/dev/shm", "tmpfs", calls.MS_NOSUID | calls.MS_NODEV, SHM)  # noqa: S108
    for name, target in LINKS:
        os.symlink(target, f"/dev/{name}")  # noqa: PTH211
    for fd, target in mounts:
        calls.attach(fd, target)
    _hide(own=users < 0)
    if users >= 0:
        calls.setns(users, calls.NEWUSER)
        _be_root()
    calls.drop_capabilities(machine)
    calls.end_with_parent()
    if _has_ended(outer):
        return 127
    os.umask(0o022)
    calls.filter_calls(base64.b64decode(order["filter"]))
    os.write(order["alive"], b"1")
    return _run(order)


def _hide(*, own: bool) -> None:
    """Hide what is the host's; and the first process where its program is the user's own."""
    for path in READ_ONLY:
        if os.path.exists(path):  # noqa: PTH110
            calls.mount(path, path, None, calls.MS_BIND)
            calls.mount(None, path, None, calls.MS_REMOUNT_BIND | calls.MS_RDONLY | _SAFE)
    for path in MASKED:
        if os.path.isdir(path):  # noqa: PTH112
            calls.mount("tmpfs", path, "tmpfs", _SAFE | calls.MS_RDONLY, "size=4k")
        elif os.path.exists(path):  # noqa: PTH110
            calls.mount("/dev/null", path, None, calls.MS_BIND)
    if own:
        calls.mount("tmpfs", "/proc/1", "tmpfs", _SAFE | calls.MS_RDONLY, "mode=0555,size=4k")


def _be_root() -> None:
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _run(order: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        try:
            for fd in order["fds"]:
                os.set_inheritable(fd, True)  # noqa: FBT003
            os.chdir(order["cwd"])
            os.setsid()
            os.execve(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - the runner
        except OSError as error:
            os.write(2, f"{order['argv'][0]}: {error}\n".encode())
        os._exit(127)
    for fd in order["fds"]:
        os.close(fd)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return _shell_code(status)


def _shell_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
