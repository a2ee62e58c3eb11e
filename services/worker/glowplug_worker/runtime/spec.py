"""The runtime specification of a container for `crun`, `runc` and `runsc`, made from nothing. Pure.

It is never merged with what an image says: of that, only the environment and the working directory come
in, through the plan. No hooks, no capabilities, no terminal; numeric user ids only. Paths are those in
the private mount namespace that `oci_birth.py` makes, and so is the root: an empty file system of ours
with a place for every mount, so that nothing of a user's can stand where the runtime mounts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

OCI_VERSION: Final = "1.0.2"
# A container's user ids: its own 65,536, of which it runs as one; none is an id of the host's.
IDS: Final = 65_536
SHELL: Final = "/bin/sh"
# The first process of a pid namespace must reap what others leave, and signals don't end it as they end
# others: a shell that waits does the first and keeps the second from the user's process.
INIT: Final = (SHELL, "-c", '"$@"; exit $?', "init")
SHM_BYTES: Final = 1 << 30
MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
)
READ_ONLY: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
# Made in the root before the runtime mounts over them.
PLACES: Final = ("/proc", "/dev", "/sys", "/etc", "/usr", "/tmp")  # noqa: S108 - inside
_NAMESPACES: Final = ("pid", "ipc", "uts", "mount", "user", "cgroup")
_SAFE: Final = ("nosuid", "nodev")


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """Something of the host's at its place inside. `device`: a device node, which may be used."""

    source: str
    target: str
    writable: bool = False
    directory: bool = True
    device: bool = False


class Tmpfs(msgspec.Struct, frozen=True, kw_only=True):
    """An empty, private file system. Mode 0555 hides what is below it."""

    target: str
    size_bytes: int
    mode: int = 0o1777


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """What is made in the empty root: directories and empty files to mount on, and links."""

    directories: tuple[str, ...]
    files: tuple[str, ...]
    links: tuple[tuple[str, str], ...]


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that makes a container's specification.

    Attributes:
        root: where the empty root lies.
        first_id: of the host, which is 0 inside; `IDS` of them.
        links: (path, target) of links in the root, as the host has them.
        directories: empty ones in the root.
        own_network: a new, empty network namespace; else the one it is born into.
        seccomp: the profile in the runtime's words; None where the runtime gets it by annotation.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    hostname: str
    root: str
    first_id: int
    user: int
    mounts: tuple[Mount, ...]
    tmpfs: tuple[Tmpfs, ...] = ()
    masks: tuple[Tmpfs, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    directories: tuple[str, ...] = ()
    own_network: bool = False
    open_files: int = 4096
    seccomp: dict[str, Any] | None = None
    annotations: dict[str, str] = {}


def build_spec(needs: Needs) -> dict[str, Any]:
    """Return the contents of `config.json`. Raises: ValueError for a path that is none."""
    targets = [each.target for each in needs.mounts] + [each.target for each in needs.tmpfs]
    for path in (needs.cwd, *targets):
        check_path(path)
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in _NAMESPACES],
        "uidMappings": [{"containerID": 0, "hostID": needs.first_id, "size": IDS}],
        "gidMappings": [{"containerID": 0, "hostID": needs.first_id, "size": IDS}],
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READ_ONLY),
    }
    if needs.own_network:
        linux["namespaces"].append({"type": "network"})
    if needs.seccomp is not None:
        linux["seccomp"] = needs.seccomp
    return {
        "ociVersion": OCI_VERSION,
        "annotations": dict(needs.annotations),
        "hostname": needs.hostname,
        "root": {"path": needs.root, "readonly": True},
        "process": _process(needs),
        "mounts": [
            *_system(),
            *(_tmpfs(each) for each in needs.tmpfs),
            *(_bind(each) for each in needs.mounts),
            *(_tmpfs(each, "ro", "noexec") for each in needs.masks),
        ],
        "linux": linux,
    }


def build_root(needs: Needs) -> Root:
    """Return what stands in the empty root before the runtime mounts over it."""
    directories = dict.fromkeys((*PLACES, *needs.directories))
    files: dict[str, None] = {}
    linked = {path for path, _ in needs.links}
    directories |= dict.fromkeys(each.target for each in needs.tmpfs)
    for mount in needs.mounts:
        if mount.directory:
            directories[mount.target] = None
        else:
            directories[str(PurePosixPath(mount.target).parent)] = None
            files[mount.target] = None
    return Root(
        directories=tuple(each for each in directories if each not in linked and each != "/"),
        files=tuple(files),
        links=needs.links,
    )


def check_path(path: str) -> None:
    """Raise ValueError unless this is a plain absolute path that stays out of /proc.

    A working directory or target behind /proc/self/fd is how runtimes were escaped from.
    """
    pure = PurePosixPath(path)
    if "\0" in path or not pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"{path!r} is no plain absolute path")
    if pure.parts[1:2] in (("proc",), ("sys",)) or pure == PurePosixPath("/"):
        raise ValueError(f"{path!r} is not a place for a container's files")


def _process(needs: Needs) -> dict[str, Any]:
    kinds = ("bounding", "effective", "inheritable", "permitted", "ambient")
    limits = (("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", needs.open_files))
    return {
        "terminal": False,
        "user": {"uid": needs.user, "gid": needs.user, "additionalGids": []},
        "args": [*INIT, *needs.argv],
        "env": [f"{name}={value}" for name, value in needs.env.items()],
        "cwd": needs.cwd,
        "capabilities": {kind: [] for kind in kinds},
        "rlimits": [{"type": name, "hard": limit, "soft": limit} for name, limit in limits],
        "noNewPrivileges": True,
    }


def _system() -> Iterable[dict[str, Any]]:
    yield _mount("/proc", "proc", ("nosuid", "noexec", "nodev"))
    yield _mount("/dev", "tmpfs", ("nosuid", "noexec", "mode=755", "size=64k"))
    yield _mount(
        "/dev/pts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")
    )
    yield _mount("/dev/mqueue", "mqueue", ("nosuid", "noexec", "nodev"))
    yield _tmpfs(Tmpfs(target="/dev/shm", size_bytes=SHM_BYTES))  # noqa: S108 - inside


def _tmpfs(each: Tmpfs, *more: str) -> dict[str, Any]:
    options = (*_SAFE, f"mode={each.mode:o}", f"size={each.size_bytes}", *more)
    return _mount(each.target, "tmpfs", options)


def _bind(each: Mount) -> dict[str, Any]:
    options = ["bind", "nosuid", *([] if each.device else ["nodev"])]
    if each.device:
        options.append("noexec")
    elif not each.writable:
        options.append("ro")
    return _mount(each.target, "bind", options, each.source)


def _mount(target: str, kind: str, options: Sequence[str], source: str = "") -> dict[str, Any]:
    return {
        "destination": target,
        "type": kind,
        "source": source or kind,
        "options": list(options),
    }
