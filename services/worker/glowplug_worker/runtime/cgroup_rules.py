"""Where control groups lie and what is written into them, for v1, v2 and both at once. Pure: text in, text out.

On a hybrid host some controllers are v1 hierarchies of their own and the unified one has the rest; each
controller is taken from where it really is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import msgspec

from glowplug_worker.ports import Enforced, Evidence, IoDone, IoLimits, Limits

# The controllers that hold a limit, and what they enforce.
HOLDING: Final[Mapping[str, Enforced]] = {
    "memory": "memory",
    "cpu": "cpu",
    "pids": "pids",
    "io": "io",
    "blkio": "io",  # what v1 calls it
}
# Joined where they are hierarchies of their own: to freeze, and to count processor time.
HELPING: Final = ("freezer", "cpuacct")
PERIOD_US: Final = 100_000
QUOTA_US_MIN: Final = 1_000
_SHARES_MIN: Final = 2
_SHARES_MAX: Final = 262_144
_WEIGHT_MAX: Final = 10_000
_WORDS_OF_A_DEVICE: Final = 3


class Hierarchy(msgspec.Struct, frozen=True, kw_only=True):
    """A mounted tree of control groups, and this process's place in it."""

    version: Literal[1, 2]
    controllers: tuple[str, ...]
    root: Path
    own: Path


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a control group and its value; what is `optional` may be missing in this kernel."""

    file: str
    value: str
    optional: bool = False


def find_hierarchies(mountinfo: str, own: str, unified: str = "") -> tuple[Hierarchy, ...]:
    """Return the hierarchies of controllers we use.

    Args:
        mountinfo, own: /proc/self/mountinfo and /proc/self/cgroup.
        unified: the controllers of the v2 hierarchy (`cgroup.controllers` in its root).
    """
    places: dict[str, str] = {}
    for line in own.splitlines():
        _, names, path = line.split(":", 2)
        places[names] = path
        for name in names.split(","):
            places.setdefault(name, path)
    found: list[Hierarchy] = []
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        mount_root, mount_point = head.split()[3:5]
        kind, _, options = [*tail.split(), "", "", ""][:3]
        if kind == "cgroup2":
            controllers = tuple(name for name in unified.split() if name in HOLDING)
            version: Literal[1, 2] = 2
            place = places.get("", "/")
        elif kind == "cgroup":
            wanted = (*HOLDING, *HELPING)
            controllers = tuple(name for name in options.split(",") if name in wanted)
            version = 1
            place = places.get(controllers[0], "/") if controllers else "/"
        else:
            continue
        if controllers and not any(set(controllers) & set(each.controllers) for each in found):
            root = Path(mount_point)
            found.append(
                Hierarchy(
                    version=version,
                    controllers=controllers,
                    root=root,
                    own=root / _below(place, mount_root),
                )
            )
    return tuple(found)


def _below(place: str, mount_root: str) -> str:
    """Return our place relative to what is mounted; "" where it lies outside of it."""
    try:
        return str(PurePosixPath(place).relative_to(mount_root))
    except ValueError:
        return ""


def writes(version: int, controller: str, limits: Limits) -> tuple[Write, ...]:
    """Return what holds a container to its limits, in order."""
    match controller:
        case "memory" if limits.memory_bytes > 0:
            return _memory(version, limits.memory_bytes)
        case "cpu":
            return (*_weight(version, limits.cpu_share_millis), *_quota(version, limits.cpu_millis))
        case "pids" if limits.pids > 0:
            return (Write(file="pids.max", value=str(limits.pids)),)
        case _:
            return ()


def device_writes(
    version: int, controller: str, limits: IoLimits, device: str
) -> tuple[Write, ...]:
    """Return what holds a container to its limits on one disk, "major:minor"."""
    if controller not in ("io", "blkio"):
        return ()
    names = _IO_FILES if version == 1 else _IO_KEYS
    found = [(names[field], value) for field in names if (value := getattr(limits, field)) > 0]
    if version == 1:
        return tuple(Write(file=name, value=f"{device} {value}") for name, value in found)
    if not found:
        return ()
    words = " ".join(f"{name}={value}" for name, value in found)
    return (Write(file="io.max", value=f"{device} {words}"),)


def _memory(version: int, limit: int) -> tuple[Write, ...]:
    """Swap counts too: a limit that swapping evades is none."""
    if version == 1:
        return (
            Write(file="memory.limit_in_bytes", value=str(limit)),
            Write(file="memory.memsw.limit_in_bytes", value=str(limit), optional=True),
        )
    return (
        Write(file="memory.max", value=str(limit)),
        Write(file="memory.swap.max", value="0", optional=True),
    )


def _quota(version: int, millis: int) -> tuple[Write, ...]:
    if millis <= 0:
        return ()
    quota = max(QUOTA_US_MIN, millis * PERIOD_US // 1000)
    if version == 1:
        return (
            Write(file="cpu.cfs_period_us", value=str(PERIOD_US)),
            Write(file="cpu.cfs_quota_us", value=str(quota)),
        )
    return (Write(file="cpu.max", value=f"{quota} {PERIOD_US}"),)


_IO_FILES: Final = {
    "read_bytes": "blkio.throttle.read_bps_device",
    "write_bytes": "blkio.throttle.write_bps_device",
    "reads": "blkio.throttle.read_iops_device",
    "writes": "blkio.throttle.write_iops_device",
}
_IO_KEYS: Final = {"read_bytes": "rbps", "write_bytes": "wbps", "reads": "riops", "writes": "wiops"}


def _weight(version: int, millis: int) -> tuple[Write, ...]:
    """What was requested is the share among those who want more than there is."""
    if millis <= 0:
        return ()
    shares = min(_SHARES_MAX, max(_SHARES_MIN, millis * 1024 // 1000))
    if version == 1:
        return (Write(file="cpu.shares", value=str(shares), optional=True),)
    span = _SHARES_MAX - _SHARES_MIN
    weight = 1 + (shares - _SHARES_MIN) * (_WEIGHT_MAX - 1) // span
    return (Write(file="cpu.weight", value=str(weight), optional=True),)


# -- what the kernel says afterwards ---------------------------------------------------------------

# The files of evidence, by controller; what is missing counts as nothing.
EVIDENCE_FILES: Final = {
    (1, "memory"): ("memory.oom_control", "memory.max_usage_in_bytes"),
    (1, "cpu"): ("cpu.stat",),
    (1, "cpuacct"): ("cpuacct.usage",),
    (1, "pids"): ("pids.events",),
    (1, "blkio"): ("blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"),
    (2, "memory"): ("memory.events", "memory.peak"),
    (2, "cpu"): ("cpu.stat",),
    (2, "pids"): ("pids.events",),
    (2, "io"): ("io.stat",),
}


def read_evidence(files: Mapping[str, str], limits: Limits) -> Evidence:
    """Return what files of a container's control groups, v1 or v2, say of it."""
    oom = _keyed(files.get("memory.events") or files.get("memory.oom_control", ""))
    cpu = _keyed(files.get("cpu.stat", ""))
    throttled_us = cpu.get("throttled_usec", cpu.get("throttled_time", 0) // 1000)
    used_us = cpu.get("usage_usec", _number(files.get("cpuacct.usage", "")) // 1000)
    peak = files.get("memory.peak") or files.get("memory.max_usage_in_bytes", "")
    return Evidence(
        limits=limits,
        oom_kills=oom.get("oom_kill", 0),
        memory_peak_bytes=_number(peak),
        pids_refused=_keyed(files.get("pids.events", "")).get("max", 0),
        cpu_s=used_us / 1e6,
        cpu_throttled_s=throttled_us / 1e6,
        io=_io(files),
    )


def _io(files: Mapping[str, str]) -> IoDone:
    if "io.stat" in files:
        found: Counter[str] = Counter()
        for line in files["io.stat"].splitlines():
            for word in line.split()[1:]:
                name, _, value = word.partition("=")
                found[name] += _number(value)
        return IoDone(
            read_bytes=found["rbytes"],
            write_bytes=found["wbytes"],
            reads=found["rios"],
            writes=found["wios"],
        )
    size = _by_direction(files.get("blkio.throttle.io_service_bytes", ""))
    count = _by_direction(files.get("blkio.throttle.io_serviced", ""))
    return IoDone(
        read_bytes=size["Read"],
        write_bytes=size["Write"],
        reads=count["Read"],
        writes=count["Write"],
    )


def _by_direction(text: str) -> Counter[str]:
    """Add up lines like "254:0 Read 4096"; the kernel's own "Total" is left out."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        words = line.split()
        if len(words) == _WORDS_OF_A_DEVICE:
            found[words[1]] += _number(words[2])
    return found


def _keyed(text: str) -> dict[str, int]:
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        found[name] = _number(value)
    return found


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if text.isdecimal() else 0
