"""A secret was planted outside in a process's environment, arguments, memory and files; is it found?"""

from __future__ import annotations

import glob
import os
import re

from .kit import GIVEN, Family, Held, canary, reads

FAMILY = Family("credentials")


def _search(pattern: str) -> list[str]:
    secret = canary()
    found = []
    for path in glob.glob(pattern):
        try:
            with open(path, "rb") as file:
                if secret in file.read(1 << 20):
                    found.append(path)
        except OSError:
            continue
    if not found:
        raise Held("not found")
    return found


for _name in ("environ", "cmdline"):
    FAMILY.add(
        f"in the {_name} of every process in sight",
        lambda name=_name: _search(f"/proc/[0-9]*/{name}"),
        119,
    )

FAMILY.add("in the environ of process 1", lambda: reads("/proc/1/environ", canary()), 119,
           control="the secret was planted in another process")  # fmt: skip
FAMILY.add("in every thread's environ", lambda: _search("/proc/[0-9]*/task/*/environ"), 119)


@FAMILY(
    "in its own environment and arguments",
    119,
    control="a plain process is given the same environment, and nothing of the worker's",
)
def _() -> None:
    secret = canary().decode()
    for name, value in os.environ.items():
        if secret in name + value:
            return
    raise Held("not there")


def _in_memory(pid: str) -> bool:
    secret = canary()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if not bounds:
                continue
            start, end = (int(word, 16) for word in bounds.groups())
            if end - start > 64 << 20:
                continue
            try:
                memory.seek(start)
                if secret in memory.read(end - start):
                    return True
            except (OSError, OverflowError):
                continue
    return False


@FAMILY("in the memory of every other process in sight", 119)
def _() -> list[str]:
    own = str(os.getpid()), str(os.getppid())
    pids = [name for name in os.listdir("/proc") if name.isdecimal() and name not in own]
    if not GIVEN["sandboxed"]:
        pids = [str(GIVEN["victim"])]
    found = []
    for pid in pids:
        try:
            if _in_memory(pid):
                found.append(pid)
        except OSError:
            continue
    if not found:
        raise Held(f"{len(pids)} looked at")
    return found


@FAMILY("in every file it can read that is no system file", 119)
def _() -> list[str]:
    secret = canary()
    found = []
    skipped = {"/proc", "/sys", "/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/dev/pts"}
    tops = (
        ["/"]
        if GIVEN["sandboxed"]
        else [os.path.dirname(GIVEN["home"]), os.path.dirname(GIVEN["data"])]
    )
    prefix = os.path.realpath(os.__file__).split("/lib/")[0]
    for top in tops:
        for folder, folders, names in os.walk(top):
            folders[:] = [
                name
                for name in folders
                if os.path.join(folder, name) not in skipped
                and os.path.join(folder, name) != prefix
            ]
            if not GIVEN["sandboxed"]:
                folders.clear()
            for name in names:
                path = os.path.join(folder, name)
                try:
                    if os.path.isfile(path) and os.path.getsize(path) < 1 << 20:
                        with open(path, "rb") as file:
                            if secret in file.read():
                                found.append(path)
                except OSError:
                    continue
    if not found:
        raise Held("not found")
    return found


@FAMILY(
    "in the kernel's command line and configuration",
    control="nothing can be planted in the kernel's own",
)
def _() -> None:
    for path in ("/proc/cmdline", "/proc/config.gz", "/proc/version"):
        try:
            reads(path, canary())
        except (OSError, Held):
            continue
        return
    raise Held("not there")


@FAMILY("in shared memory of the host", 78)
def _() -> list[str]:
    return _search("/dev/shm/*")


@FAMILY("in a socket that the host's processes share, by name", needs="network")
def _() -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect("\0" + GIVEN["abstract"])
        if canary() not in sock.recv(4096):
            raise Held("not there")


@FAMILY("in the list of the host's sockets", 84, needs="network")
def _() -> None:
    reads("/proc/net/unix", GIVEN["abstract"].encode())
