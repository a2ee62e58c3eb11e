"""Files of the kernel: /proc, /sys, and devices."""

from __future__ import annotations

import glob
import os
import re

from .kit import Family, Held, opens, reads, rewrites

FAMILY = Family("kernel files")

_REWRITTEN = {
    "/proc/sys/kernel/core_pattern": 1,
    "/proc/sys/kernel/modprobe": 2,
    "/proc/sys/kernel/randomize_va_space": 1,
    "/proc/sys/kernel/panic": 1,
    "/proc/sys/kernel/kptr_restrict": 1,
    "/proc/sys/kernel/hostname": 1,
    "/proc/sys/kernel/ns_last_pid": 1,
    "/proc/sys/vm/overcommit_memory": 1,
    "/proc/sys/vm/swappiness": 1,
    "/proc/sys/fs/file-max": 1,
    "/proc/sys/fs/protected_symlinks": 1,
    "/proc/sys/net/core/somaxconn": 1,
    "/proc/irq/default_smp_affinity": 1,
    "/sys/kernel/mm/ksm/run": 1,
}
for _path, _number in _REWRITTEN.items():
    FAMILY.add(f"rewrite {_path}", lambda path=_path: rewrites(path), _number)

_WRITTEN_ONLY = {
    "/proc/sysrq-trigger": 3,
    "/proc/sys/vm/drop_caches": 1,
    "/proc/sys/vm/compact_memory": 1,
    "/sys/kernel/uevent_helper": 4,
    "/sys/kernel/mm/transparent_hugepage/enabled": 1,
    "/sys/power/state": 1,
    "/sys/kernel/profiling": 1,
    "/sys/module/*/parameters/*": 1,
    "/sys/block/*/queue/scheduler": 1,
    "/sys/kernel/security/lockdown": 1,
}


def _opens_any(pattern: str, flags: int) -> None:
    """Open the first file of a pattern that can be; raise what the last one said."""
    error: OSError = FileNotFoundError(2, pattern)
    for path in sorted(glob.glob(pattern))[:200] or [pattern]:
        try:
            return opens(path, flags)
        except OSError as said:
            error = said
    raise error


for _path, _number in _WRITTEN_ONLY.items():
    FAMILY.add(
        f"open {_path} for writing", lambda path=_path: _opens_any(path, os.O_WRONLY), _number
    )

for _path in ("/proc/kcore", "/proc/kmsg", "/proc/keys", "/proc/key-users", "/proc/timer_list",
              "/proc/sched_debug", "/proc/latency_stats", "/proc/vmallocinfo", "/proc/slabinfo",
              "/proc/kpagecount", "/proc/acpi", "/proc/scsi", "/sys/firmware/acpi/tables/DSDT",
              "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/fs/bpf", "/sys/fs/pstore"):  # fmt: skip

    def _look(path: str = _path) -> None:
        if os.path.isdir(path):
            if not os.listdir(path):
                raise Held("empty")
        elif path in ("/proc/kmsg", "/proc/kcore"):
            if os.stat(path).st_rdev == os.stat("/dev/null").st_rdev:
                raise Held("there is nothing behind it")
            opens(path)
        else:
            reads(path)

    FAMILY.add(f"read {_path}", _look, 35)


@FAMILY("the kernel's addresses in /proc/kallsyms", 35)
def _() -> None:
    if not re.search(rb"(?m)^[0-9a-f]*[1-9a-f]", reads("/proc/kallsyms")):
        raise Held("they are zeros")


@FAMILY("the kernel's addresses in /proc/modules", 35)
def _() -> None:
    if not re.search(rb"0x[0-9a-f]*[1-9a-f]", reads("/proc/modules")):
        raise Held("they are zeros")


for _path in ("/dev/mem", "/dev/port", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/net/tun",
              "/dev/loop-control", "/dev/loop0", "/dev/userfaultfd", "/dev/vhost-net",
              "/dev/vhost-vsock", "/dev/mapper/control", "/dev/cpu/0/msr", "/dev/uinput",
              "/dev/console", "/dev/tty0", "/dev/vda", "/dev/rtc0"):  # fmt: skip
    FAMILY.add(f"open {_path}", lambda path=_path: opens(path), 35)


@FAMILY("open the terminal that started us", 46, control="tests have no terminal")
def _() -> None:
    opens("/dev/tty", os.O_RDWR)


@FAMILY("list devices beyond the harmless ones")
def _() -> list[str]:
    harmless = {
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "stdin",
        "stdout", "stderr", "console", "core", "mqueue",
    }  # fmt: skip
    found = sorted(set(os.listdir("/dev")) - harmless)
    if not found:
        raise Held("none")
    return found


@FAMILY("rewrite its own time namespace's offsets", 80)
def _() -> None:
    rewrites("/proc/self/timens_offsets")


@FAMILY("raise its own immunity to the killer of memory", 76)
def _() -> None:
    with open("/proc/self/oom_score_adj") as file:
        before = int(file.read())
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(before - 500))


for _path in ("uid_map", "gid_map", "projid_map", "setgroups"):
    FAMILY.add(
        f"write its own /proc/self/{_path}",
        lambda path=_path: rewrites(f"/proc/self/{path}"),
        16,
        control="a map is written once; without a namespace of one's own there is nothing to write",
    )
