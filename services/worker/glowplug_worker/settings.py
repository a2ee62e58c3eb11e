"""What a worker can be told. Read once, by the runtime, from GLOWPLUG_WORKER_<FIELD>."""

from __future__ import annotations

import re
from typing import Literal

from glowplug_contracts.messages.worker import GpuDevice
from glowplug_runtime.settings import Settings, SettingsError

from glowplug_worker.ports import IoLimits

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*(ki|mi|gi|ti|kb|mb|gb|tb|b)?\Z", re.IGNORECASE)
_UNITS = {
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "ki": 1024,
    "mi": 1024**2,
    "gi": 1024**3,
    "ti": 1024**4,
}
GPUS_MAX = 64
OPERATIONS_MAX = 2**32 - 1  # the kernel counts in 32 bits
CANCEL_GRACE_S = 2.0
SIMULATED_GPU_BYTES = 24 * 1024**3


class WorkerSettings(Settings, frozen=True, kw_only=True):
    """The worker's settings; the instance's name is the worker's id.

    Attributes:
        cpu: cores on offer; 0 = the host's, less what other live workers on this host claim.
        memory: on offer, "8Gi" or bytes; "" = likewise.
        gpus: simulated devices, "A10G:2,H100" ; "" = the real ones that NVML finds. Simulated GPUs
            exist in accounting only and are labelled as simulated wherever they are shown.
        backend: how containers are isolated; "auto" = the best one that really works here.
        runtime: which runtime the backends oci and gvisor use, by name (crun, runc) or path; "" = the
            best that is installed.
        seccomp: a JSON file of system calls that are refused in containers beside those that the platform
            refuses (docs/guide/containers.md); "" = none.
        pids: how many processes and threads a container may have.
        io_read, io_write: bytes that a container may read from each disk in a second, and write to it, "50Mi";
            "" = not limited. With v1 control groups the kernel writes back in its own name what nobody waits
            for, so only reads, synced and direct writes are held; with v2 all of it.
        io_reads, io_writes: the same, as a number of operations; 0 = not limited.
        unenforced: what becomes of a container with a limit (memory, cpu, disk, io) that the backend can't
            hold it to: "warn" runs it with one warning in the log, "refuse" ends it with an error that
            says so. Production wants "refuse".
        network: "own": each container has its own, with a filter, which takes root; "shared": this host's;
            "none"; "auto": own where that can be had, else shared.
        network_open: private networks that containers with a network of their own may reach beside
            public addresses, as "10.0.0.0/8, 192.168.1.7".
        network_between: addresses that are used between such containers and this host; at least a /20.
        image_mounts: how images of registries come here: "fanotify" and "fuse" mount them before their files are
            here, "extract" writes all files out first; "auto" = the best one that really works here. The
            worker does not start where another one can't be had.
        image_keep_s: how long such an image stays mounted that no container has.
        image_disk: what such images may take in the data directory, "50Gi" or bytes; "" = half of its file
            system. Beyond it those leave that no container has had for longest.
        pool: which pool's containers it takes.
        peers: whether it gives other workers the objects of images that it has mounted and that are all here, at `host`
            and `port`, for the platform's own token; takes a `host` that other workers reach.
        peer_streams: to how many of them at once; others are sent to imagecache.
        peer_bytes: bytes a second that may leave so, "256Mi"; "" = not limited.
        apt_proxy: what build containers ask for Debian packages, "http://cache.example:3142"; "" = the servers that an
            image names.
        claims_dir: where workers of this host say what they claim; "" = beside the data directory.
        cdi_dirs: where the host describes its devices for containers (CDI), separated by ":".
        volumes_dir: where volumes lie, the same as the gateways'; "" = this worker has none.
        templates: whether containers are forked from processes that have their imports done, where this
            worker can; see docs/guide/starts.md.
        template_memory: what these may use while nothing forked from them runs, "2Gi" or bytes; "" = a tenth
            of what is on offer.
        template_keep_s: how long one is kept after its last use.
        stop_grace_s: what running invocations get when the worker is told to end.
        cancel_grace_s: what code gets from its cancel until it is killed. Where others run beside it, its
            container takes nothing new and is killed when only such as it are left.
    """

    cpu: float = 0.0
    memory: str = ""
    gpus: str = ""
    backend: Literal["auto", "process", "bwrap", "oci", "gvisor"] = "auto"
    runtime: str = ""
    seccomp: str = ""
    pids: int = 4096
    io_read: str = ""
    io_write: str = ""
    io_reads: int = 0
    io_writes: int = 0
    unenforced: Literal["warn", "refuse"] = "warn"
    network: Literal["auto", "own", "shared", "none"] = "auto"
    network_open: str = ""
    network_between: str = "198.18.0.0/15"
    pool: str = "default"
    peers: bool = False
    peer_streams: int = 4
    peer_bytes: str = "256Mi"
    apt_proxy: str = ""
    claims_dir: str = ""
    stop_grace_s: float = 8.0
    cancel_grace_s: float = CANCEL_GRACE_S
    templates: bool = True
    template_memory: str = ""
    template_keep_s: float = 3600.0
    volumes_dir: str = ""
    image_mounts: Literal["auto", "fanotify", "fuse", "extract"] = "auto"
    image_keep_s: float = 900.0
    image_disk: str = ""
    cdi_dirs: str = "/etc/cdi:/var/run/cdi"


def parse_bytes(text: str, name: str = "memory") -> int:
    """Return the bytes in "8Gi", "512mb" or "1024"; 0 for "". Raises: SettingsError naming the setting."""
    if not text:
        return 0
    match = _SIZE.match(text.strip())
    if not match:
        raise SettingsError(
            f"GLOWPLUG_WORKER_{name.upper()}={text!r}: write it like 8Gi, 512Mi or 1024"
        )
    return int(float(match.group(1)) * _UNITS[(match.group(2) or "b").lower()])


def io_limits(settings: WorkerSettings) -> IoLimits:
    """Return what each container may ask of a disk in a second. Raises: SettingsError."""
    for name in ("io_reads", "io_writes"):
        count = getattr(settings, name)
        if not 0 <= count <= OPERATIONS_MAX:
            raise SettingsError(
                f"GLOWPLUG_WORKER_{name.upper()}={count}: 0 (not limited) to {OPERATIONS_MAX}"
            )
    return IoLimits(
        read_bytes=parse_bytes(settings.io_read, "io_read"),
        write_bytes=parse_bytes(settings.io_write, "io_write"),
        reads=settings.io_reads,
        writes=settings.io_writes,
    )


def parse_gpus(text: str) -> tuple[GpuDevice, ...]:
    """Return the simulated devices in "A10G:2,H100". Raises: SettingsError."""
    devices: list[GpuDevice] = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        kind, _, count = part.partition(":")
        if not kind.replace("-", "").isalnum() or not (count or "1").isdigit():
            raise SettingsError(f"GLOWPLUG_WORKER_GPUS={text!r}: write it like A10G:2,H100")
        devices += [
            GpuDevice(
                gpu_id=f"simulated-{kind}-{len(devices) + number}",
                kind=kind,
                memory_bytes=SIMULATED_GPU_BYTES,
                simulated=True,
            )
            for number in range(int(count or "1"))
        ]
    if len(devices) > GPUS_MAX:
        raise SettingsError(f"GLOWPLUG_WORKER_GPUS={text!r}: at most {GPUS_MAX} devices")
    return tuple(devices)
