"""What code in a container must not be able to do, tried; and the same tried without the sandbox.

`CODE` runs inside and says one dictionary: name → "" (it worked) or the name of the error. The control
runs the same code in a plain process of the same user: an attempt that fails there too shows nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.process import ProcessBackend

from tests.support.containers import open_container

CODE = r"""
import ctypes, errno, mmap, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
given = json.loads(os.environ["GIVEN"])
X86 = os.uname().machine == "x86_64"

def called(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

def opens(path, mode=os.O_RDONLY):
    os.close(os.open(path, mode))

def in_child(attempt):
    # What changes a process's own namespaces is tried in a child, so that the next attempt is not moved.
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, tried(attempt).encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 100).decode()
    os.close(reading)
    os.waitpid(pid, 0)
    if said:
        raise OSError(getattr(errno, said, errno.EIO), said)

def mount_tmpfs():
    libc.unshare(0x20000)
    libc.mount(None, b"/", None, 0x44000, None)
    called(libc.mount(b"tmpfs", b"/proc", b"tmpfs", 0, None))

def write_core_pattern():
    path = "/proc/sys/kernel/core_pattern"
    value = open(path, "rb").read()
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, value)
    os.close(fd)

def seize(pid):
    called(libc.ptrace(0x4206, pid, None, None))

def seize_child():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        seize(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

def raw(number, *arguments):
    return called(libc.syscall(ctypes.c_long(number), *arguments))

def io_uring():
    os.close(raw(425, 1, ctypes.create_string_buffer(120)))

def keyctl():
    raw(250 if X86 else 219, 0, ctypes.c_long(-2), ctypes.c_long(1))

def bpf():
    # BPF_MAP_CREATE of a small array.
    attributes = ctypes.create_string_buffer(struct.pack("=IIII", 2, 4, 4, 1) + bytes(104))
    os.close(raw(321 if X86 else 280, 0, attributes, 120))

def userfaultfd():
    os.close(raw(323 if X86 else 282, 0))

def handle():
    buffer = ctypes.create_string_buffer(struct.pack("=II", 128, 0) + bytes(128))
    mount_id = ctypes.c_int()
    called(libc.name_to_handle_at(-100, b"/", buffer, ctypes.byref(mount_id), 0))
    root = os.open("/", os.O_RDONLY)
    os.close(called(libc.open_by_handle_at(root, buffer, os.O_RDONLY)))

def become_root():
    os.setresuid(0, 0, 0)
    if int(dict(l.split(":", 1) for l in open("/proc/self/status"))["CapEff"], 16) == 0:
        raise PermissionError(errno.EPERM, "no capabilities")

def make_device():
    path = given["writable"] + "/null"
    os.mknod(path, 0o20666, os.makedev(1, 3))
    os.unlink(path)

def tried(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno, "EIO")
    return ""

attempts = {
    "write core_pattern": write_core_pattern,
    "read /etc/shadow": lambda: opens("/etc/shadow"),
    "read the user's home": lambda: opens(given["home"]),
    "read the data directory": lambda: opens(given["data"]),
    "signal the worker": lambda: os.kill(given["worker"], 0),
    "mount": lambda: in_child(mount_tmpfs),
    "unshare a user namespace": lambda: in_child(lambda: called(libc.unshare(0x10000000))),
    "unshare a mount namespace": lambda: in_child(lambda: called(libc.unshare(0x20000))),
    "enter a namespace": lambda: in_child(
        lambda: called(libc.setns(os.open("/proc/self/ns/uts", os.O_RDONLY), 0))
    ),
    "ptrace a child": seize_child,
    "io_uring_setup": io_uring,
    "keyctl": keyctl,
    "bpf": bpf,
    "userfaultfd": userfaultfd,
    "open_by_handle_at": handle,
    "become root": lambda: in_child(become_root),
    "make a device": make_device,
    "write to /": lambda: opens("/glowplug-test", os.O_CREAT | os.O_WRONLY) or os.unlink("/glowplug-test"),
}
status = dict(l.split(":", 1) for l in open("/proc/self/status"))
say({
    "outcomes": {name: tried(attempt) for name, attempt in attempts.items()},
    "ptrace pid 1": tried(lambda: seize(1)) if given["sandboxed"] else None,
    "caps": [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")],
    "no_new_privs": int(status["NoNewPrivs"]),
    "env": dict(os.environ),
    "fds": {n: os.readlink("/proc/self/fd/" + n) for n in ("0", "1", "2", str(wire))},
    "other_fds": [n for n in range(3, 256) if n != wire and os.path.exists("/proc/self/fd/%d" % n)],
    "pids": [int(n) for n in os.listdir("/proc") if n.isdecimal()],
    "home_listing": os.listdir("/root") if os.path.isdir("/root") and os.access("/root", 4) else [],
    "etc": sorted(os.listdir("/etc")),
    "root": sorted(os.listdir("/")),
})
hear()
"""


async def attempt_all(*, sandboxed: bool, data_dir: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Run the attempts in bwrap, or as a plain process of the same user."""
    backend = await choose_backend("bwrap", data_dir) if sandboxed else ProcessBackend("control")
    scratch = data_dir / ("inside" if sandboxed else "outside")
    writable = "/tmp" if sandboxed else str(scratch)
    given = {**given, "sandboxed": sandboxed, "writable": writable, "worker": os.getpid()}
    env = {"GIVEN": json.dumps(given)}
    async with open_container(backend, scratch, CODE, env=env) as inside:
        said: dict[str, Any] = await inside.said()
        return {**said, "users": users_of_tree(inside.container.pid)}


def users_of_tree(pid: int) -> list[int]:
    """Return every user id, as the host sees it, that a process or its descendants have."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    uids = next(line for line in status if line.startswith("Uid:")).split()[1:]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = {int(uid) for uid in uids}
    return sorted(found.union(*(users_of_tree(int(child)) for child in children)))


if __name__ == "__main__":
    # As another user: `attempts.py DATA_DIR GIVEN`, prints what both runs said.
    print(
        json.dumps(
            [
                asyncio.run(
                    attempt_all(
                        sandboxed=sandboxed,
                        data_dir=Path(sys.argv[1]),
                        given=json.loads(sys.argv[2]),
                    )
                )
                for sandboxed in (True, False)
            ]
        )
    )
